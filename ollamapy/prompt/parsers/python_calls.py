"""Calls as Python writes them: `[get(city="Paris", days=2), ping()]`, with JSON's words allowed too."""

from __future__ import annotations

import re
from typing import Any

from ollamapy.prompt.parsers.base import ToolCall
from ollamapy.prompt.parsers.json_values import MAX_DEPTH, mended

_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None, "nil": None}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CALL = re.compile(r"[\s,;]*([^\s(),=\"']+)\s*\(")
_KEY = re.compile(r"[\s,]*([^\s=,()]+)\s*=\s*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def python_calls(text: str, raw_strings: bool = False) -> list[ToolCall]:
    """The calls that a text consists of. Raises ValueError for any other text.

    raw_strings: backslashes in strings that are arguments themselves stay as they are.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    calls, at = [], 0
    while text[at:].strip(" \t\r\n,;"):
        match = _CALL.match(text, at)
        if match is None:
            raise ValueError("no call")
        end = _closing(text, match.end() - 1)
        calls.append(ToolCall(match[1], _arguments(text[match.end() : end], raw_strings)))
        at = end + 1
    if not calls:
        raise ValueError("no call")
    return calls


def _string_end(text: str, at: int) -> int:
    """Where the string that begins at a quote ends: the position of the other one."""
    quote, at = text[at], at + 1
    while at < len(text) and text[at] != quote:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise ValueError("a string without its end")
    return at


def _closing(text: str, at: int) -> int:
    """The position of the bracket that closes the one at a position."""
    awaited = []
    while at < len(text):
        character = text[at]
        if character in "\"'":
            at = _string_end(text, at)
        elif character in _BRACKETS:
            awaited.append(_BRACKETS[character])
        elif awaited and character == awaited[-1]:
            awaited.pop()
            if not awaited:
                return at
        at += 1
    raise ValueError("a bracket without its end")


def _parts(text: str) -> list[str]:
    """A text cut at the commas outside of strings and brackets."""
    parts, start, at = [], 0, 0
    while at < len(text):
        character = text[at]
        if character in "\"'":
            at = _string_end(text, at)
        elif character in _BRACKETS:
            at = _closing(text, at)
        elif character == ",":
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _arguments(text: str, raw_strings: bool) -> dict[str, Any]:
    arguments = {}
    for part in _parts(text):
        match = _KEY.match(part)
        if match is None:
            raise ValueError("no argument")
        arguments[match[1]] = _value(part[match.end() :], 0, raw_strings)
    found: dict[str, Any] = mended(arguments)
    return found


def _value(text: str, depth: int, raw_strings: bool = False) -> Any:
    text = text.strip()
    if depth > MAX_DEPTH:
        raise ValueError("the arguments nest too deep")
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if text[:1] in ("'", '"') and _string_end(text, 0) == len(text) - 1:
        inner = text[1:-1]
        return inner if raw_strings else _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), inner)
    if text[:1] == "[" and _closing(text, 0) == len(text) - 1:
        return [_value(part, depth + 1) for part in _parts(text[1:-1])]
    if text[:1] == "{" and _closing(text, 0) == len(text) - 1:
        return dict(_entry(part, depth + 1) for part in _parts(text[1:-1]))
    return text


def _entry(text: str, depth: int) -> tuple[str, Any]:
    end = _string_end(text, 0) + 1 if text[:1] in ("'", '"') else text.find(":")
    key, colon, value = text[:end].strip(), text[end:].lstrip()[:1], text[end:].lstrip()[1:]
    if end < 0 or colon != ":":
        raise ValueError("no entry of an object")
    return str(_value(key, depth)) if key[:1] in ("'", '"') else key, _value(value, depth)
