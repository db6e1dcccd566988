"""Durations as Go writes them ("1h30m", "-1.5s") and keep_alive in all its forms."""

from __future__ import annotations

import math
import re

from ollamapy.types import RequestError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
FOREVER = math.inf


class DurationError(RequestError):
    """A text that is no duration."""


def parse_duration(text: str) -> float:
    """Seconds of a Go duration. Raises DurationError with Go's wording."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while position < len(rest) and (match := _PIECE.match(rest, position)):
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not rest or position < len(rest):
        reason = "missing unit in" if _NUMBER.fullmatch(rest, position) else "invalid"
        raise DurationError(f'time: {reason} duration "{text}"')
    return -seconds if text.startswith("-") else seconds


def keep_alive(value: object) -> float | None:
    """Seconds a model stays after its last use: FOREVER for a negative value, None when not said.

    Accepts a number of seconds or a Go duration. Raises DurationError.
    """
    if value is None:
        return None
    if isinstance(value, str):
        seconds = parse_duration(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise DurationError("keep_alive must be a number of seconds or a duration")
    return FOREVER if seconds < 0 else seconds
