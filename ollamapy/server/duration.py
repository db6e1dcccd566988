"""Durations as Go writes them ("1h30m", "-1.5s") and keep_alive in all its forms."""

from __future__ import annotations

import math
import re

from ollamapy.prompt.gotemplate.formatting import quote
from ollamapy.types import RequestError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+", re.ASCII)
_UNIT = re.compile(r"[^.0-9]*")
_LONGEST = (1 << 63) / 1e9  # seconds: Go counts nanoseconds in 63 bits
FOREVER = math.inf


class DurationError(RequestError):
    """A text that is no duration."""


def parse_duration(text: str) -> float:
    """Seconds of a Go duration. Raises DurationError with Go's wording."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    seconds, position = 0.0, 0
    while position < len(rest) and (number := _NUMBER.match(rest, position)):
        unit = _UNIT.match(rest, number.end())
        assert unit is not None
        if not unit[0]:
            raise DurationError(f"time: missing unit in duration {quote(text)}")
        if unit[0] not in _UNITS:
            raise DurationError(f"time: unknown unit {quote(unit[0])} in duration {quote(text)}")
        seconds += float(number[0]) * _UNITS[unit[0]]
        position = unit.end()
    if not rest or position < len(rest) or seconds >= _LONGEST:
        raise DurationError(f"time: invalid duration {quote(text)}")
    return -seconds if text.startswith("-") else seconds


def duration_text(nanoseconds: int) -> str:
    """A duration, not negative, as Go writes it: 1m2.5s, 31.25ms, 0s."""
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if 0 < nanoseconds < 1_000 * size:
            return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return head + _decimal(rest, 10**9) + "s"


def _decimal(count: int, size: int) -> str:
    """count / size, a power of ten, exactly."""
    whole, part = divmod(count, size)
    return f"{whole}.{str(size + part)[1:]}".rstrip("0").rstrip(".") if part else str(whole)


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
