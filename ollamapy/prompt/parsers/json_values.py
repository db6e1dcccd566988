"""JSON as models write it, made into values that every dialect can send on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from ollamapy.prompt.parsers.base import ToolCall

MAX_DEPTH = 100  # of nested objects and lists in a call's arguments
_LARGEST = 2**63 - 1  # what readers of JSON keep exactly; larger ones become floats
_LONE = re.compile("[\ud800-\udfff]")
_STRUCTURE = re.compile(r'["\\{}]')


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse, strict=False)


class DepthError(ValueError):
    """A value that nests deeper than MAX_DEPTH."""


def mended(value: Any, depth: int = 0) -> Any:
    """A value without what JSON cannot carry: lone surrogates, integers that do not fit, infinities.

    Raises ValueError for a value that nests too deep or is infinite.
    """
    if depth > MAX_DEPTH:
        raise DepthError("the arguments nest too deep")
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_LARGEST <= value <= _LARGEST else mended(float(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is out of range")
        return value
    if isinstance(value, dict):
        return {mended(str(key)): mended(item, depth + 1) for key, item in value.items()}
    return [mended(item, depth + 1) for item in value]


def json_value(text: str) -> Any:
    """The value of a JSON text; control characters may stand in its strings. Raises ValueError."""
    try:
        value, end = _decoder.raw_decode(text.lstrip())
        if text.lstrip()[end:].strip():
            raise ValueError("text follows the JSON value")
        return mended(value)
    except (RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None


def json_object(text: str) -> dict[str, Any] | None:
    """The object of a JSON text, None for any other text."""
    try:
        value = json_value(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class BraceScan:
    """Finds the end of an object in a text that grows: the brace that closes the one it starts with."""

    def __init__(self, start: int = 0) -> None:
        self._at = start
        self._depth = 0
        self._in_string = False

    def end(self, text: str) -> int | None:
        """The position behind the closing brace, None while it has not come."""
        step: Callable[[str, int], re.Match[str] | None] = _STRUCTURE.search
        while (match := step(text, self._at)) is not None:
            character = match[0]
            self._at = match.end()
            if character == "\\":
                if self._in_string:
                    if self._at >= len(text):  # what it escapes has not come
                        self._at -= 1
                        return None
                    self._at += 1
            elif character == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if character == "{" else -1
                if self._depth <= 0:
                    return self._at
        self._at = len(text)
        return None


def json_error(text: str) -> str:
    """What is wrong with a JSON text, in the words of Ollama's errors."""
    stripped = text.lstrip()
    try:
        _, end = _decoder.raw_decode(stripped)
    except json.JSONDecodeError as error:
        if error.pos >= len(stripped.rstrip()) or error.msg.startswith("Unterminated"):
            return "unexpected end of JSON input"
        return f"invalid character {stripped[error.pos]!r} in JSON input"
    except (ValueError, RecursionError) as error:
        return str(error)
    rest = stripped[end:].lstrip()
    return f"invalid character {rest[0]!r} after top-level value" if rest else "not a JSON object"


def named_call(text: str) -> ToolCall | None:
    """The call of an object with `name` and, as an object or a string of JSON, `arguments`; None for any other
    text. A call without arguments has none."""
    value = json_object(text)
    if value is None or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json_object(arguments)
    return ToolCall(value["name"], arguments or {}) if isinstance(arguments, dict | None) else None
