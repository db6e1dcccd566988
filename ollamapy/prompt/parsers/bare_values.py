"""Objects without JSON's quotes, as Gemma models write them: `{key:value,list:[1,2]}`, strings between marks."""

from __future__ import annotations

import re
from typing import Any

from ollamapy.prompt.parsers.json_values import MAX_DEPTH, json_value, mended

_WORDS = {"true": True, "false": False, "null": None}
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_END = re.compile(r"[,\]}]")
_KEY = re.compile(r"\s*(?:\"([^\"]*)\"|([^:{}\[\],]+?))\s*:")


class _Error(ValueError):
    pass


class BareValues:
    """A reader of such objects; mark stands before and after strings."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def object(self, text: str) -> dict[str, Any] | None:
        """The object that a text is, None for any other text."""
        try:
            value, end = self._object(text, 0, 0)
            if text[end:].strip():
                return None
            found: dict[str, Any] = mended(value)
            return found
        except ValueError:
            return None

    def _object(self, text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = _skip(text, _expect(text, at, "{"))
        while not text.startswith("}", at):
            key, at = self._key(text, at)
            found[key], at = self._value(text, _skip(text, at), depth + 1)
            at = _next(text, at, "}")
        return found, at + 1

    def _list(self, text: str, at: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = _skip(text, _expect(text, at, "["))
        while not text.startswith("]", at):
            value, at = self._value(text, at, depth + 1)
            found.append(value)
            at = _next(text, at, "]")
        return found, at + 1

    def _key(self, text: str, at: int) -> tuple[str, int]:
        if text.startswith(self._mark, at):
            key, at = self._marked(text, at)
            return key, _expect(text, _skip(text, at), ":")
        match = _KEY.match(text, at)
        if match is None:
            raise _Error("no key")
        return (match[2] if match[1] is None else match[1]).strip(), match.end()

    def _marked(self, text: str, at: int) -> tuple[str, int]:
        start = at + len(self._mark)
        end = text.find(self._mark, start)
        if end < 0:
            raise _Error("a string without its end")
        return text[start:end], end + len(self._mark)

    def _value(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        if depth > MAX_DEPTH:
            raise _Error("the arguments nest too deep")
        if text.startswith(self._mark, at):
            return self._marked(text, at)
        if text.startswith("{", at):
            return self._object(text, at, depth)
        if text.startswith("[", at):
            return self._list(text, at, depth)
        if text.startswith('"', at):
            return _quoted(text, at)
        match = _END.search(text, at)
        if match is None:
            raise _Error("a value without its end")
        word = text[at : match.start()].strip()
        if word in _WORDS:
            return _WORDS[word], match.start()
        if _NUMBER.fullmatch(word):
            return (int(word) if word.lstrip("-").isdigit() else float(word)), match.start()
        return word, match.start()


def _quoted(text: str, at: int) -> tuple[str, int]:
    """A string of JSON."""
    match = _QUOTED.match(text, at)
    if match is None:
        raise _Error("a string without its end")
    return str(json_value(match[0])), match.end()


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise _Error(f"no {character}")
    return at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Past the comma behind a value, or at what closes its list."""
    at = _skip(text, at)
    if text.startswith(",", at):
        return _skip(text, at + 1)
    if not text.startswith(closing, at):
        raise _Error(f"no {closing}")
    return at
