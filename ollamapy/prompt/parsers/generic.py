"""The parser of models that name none: tags are known from the template, calls are JSON.

What Ollama's would lose (text behind a call, a call that is none) stays text here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ollamapy.prompt.parsers.base import (
    Content,
    Parser,
    Piece,
    Reading,
    Setup,
    Thinking,
    ToolCall,
)
from ollamapy.prompt.parsers.json_values import BraceScan, json_object
from ollamapy.prompt.template_tags import Tags

_ARGUMENTS = ("arguments", "parameters")
_NAMES = ("name", "tool_name", "function", "tool")
_MOST_FAILURES = 100  # tags in an answer that turn out to begin no call
_LONGEST_LEAD = 256  # characters between a tag and the object of its call


class GenericParser(Parser):
    """Thoughts if the request thinks, tool calls if it offers tools."""

    def __init__(self, setup: Setup, tags: Tags) -> None:
        super().__init__(setup)
        self._thinking = self.thought = tags.thinking if setup.think else None
        self._call = tags.call
        self._bare = tags.call.tag in ("{", "[")
        self._failures = 0
        self._names = sorted((_name_of(tool) for tool in setup.tools), key=len, reverse=True)
        calls = (tags.call.tag, tags.call.end, *self._endings()) if self._names else ()
        self.visible = [tag for tag in (*(self._thinking or ()), *calls) if len(tag) > 1]

    def follow(self, prompt: str) -> None:
        if self._thinking is not None:
            self.in_thought = prompt.rstrip().endswith(self._thinking[0])

    def read(self) -> Reading:
        if self._thinking is not None:
            self.in_tags = True
            yield from self._thought(*self._thinking)
            self.in_tags = False
        if not self._names:
            yield from self._rest(Content)
        elif self._bare:
            yield from self._bare_calls()
        else:
            yield from self._tagged_calls()

    def _thought(self, opening: str, closing: str) -> Reading:
        """A thought is only one at the very beginning; white space around it is neither thought nor content."""
        if not self.in_thought:
            while True:
                start = self._text.lstrip()
                if start.startswith(opening):
                    self._text = start[len(opening) :]
                    break
                if not opening.startswith(start) or not (yield from self._wait()):
                    return
        yield from self._skip_blanks()
        if (yield from self._upto(Thinking, closing)) is not None:
            yield from self._skip_blanks()

    def _bare_calls(self) -> Reading:
        """Without a tag, JSON is a call only where the text begins with it, and behind a call."""
        blanks = ""
        while not self._text.lstrip():
            blanks += self._drop(len(self._text))
            if not (yield from self._wait()):
                break
        text = self._text.lstrip()
        blanks += self._drop(len(self._text) - len(text))
        if blanks:
            yield Content(blanks)
        if not self._text.startswith(self._call.tag):
            yield from self._rest(Content)
            return
        if not (yield from self._calls()):
            yield from self._rest(Content)
            return
        while (yield from self._next_bare()):
            pass
        yield from self._rest(Content)

    def _next_bare(self) -> Generator[Piece | None, None, bool]:
        """Text up to the next object, and its call if it is one. False at the end of the text."""
        if (yield from self._upto(Content, "{")) is None:
            return False
        self._text = "{" + self._text
        if not (yield from self._calls()):
            yield Content(self._drop(1))
        return self._tries()

    def _tagged_calls(self) -> Reading:
        tag = self._call.tag
        while self._tries():
            if (yield from self._upto(Content, tag)) is None:
                return
            self._text = tag + self._text
            if (yield from self._calls()):
                continue
            if self.unfinished_call and self._cut:  # half a call, which the limit explains
                return
            yield Content(self._drop(len(tag)))
        yield from self._rest(Content)

    def _tries(self) -> bool:
        """Whether to look for more calls: not when so much was none that looking takes longer than reading."""
        return self._failures < _MOST_FAILURES

    def _calls(self) -> Generator[Piece | None, None, bool]:
        """The calls that the text begins with, and what closes them. False: it is not one, and stays."""
        found = False
        lead = len(self._call.tag) - self._bare  # "{" belongs to the object, as "[" may to text around it
        while True:
            call, end = yield from self._object(lead)
            if call is None:
                self._failures += not found
                return found
            found = True
            yield call
            self._drop(end)
            lead = yield from self._behind()
            if lead < 0:
                return True

    def _object(self, lead: int) -> Generator[None, None, tuple[ToolCall | None, int]]:
        """The call whose object comes next, and where it ends. lead: characters of a tag before it."""
        while (start := self._text.find("{", lead)) < 0:
            if self._hopeless(self._text[lead:]) or not (yield from self._wait()):
                return None, 0
        if self._hopeless(self._text[lead:start]):
            return None, 0
        scan = BraceScan(start)
        while (end := scan.end(self._text)) is None:
            if not (yield from self._wait()):
                self.unfinished_call = True
                return None, 0
        return self._call_of(self._text[lead:start], self._text[start:end]), end

    def _hopeless(self, lead: str) -> bool:
        """Whether no call's object can come after what stands between it and the tag."""
        return bool(lead.lstrip("[ \t\r\n")) if self._bare else len(lead) > _LONGEST_LEAD

    def _behind(self) -> Generator[Piece | None, None, int]:
        """What stands between calls and behind the last: closing tags and separators are dropped.

        Returns the length of the tag that begins another call, -1 when there is none.
        """
        tag, ends = self._call.tag, self._endings()
        at = kept = 0  # what may be a part of the calls, and what certainly is
        closed = False
        while True:
            rest = self._text[at:].lstrip()
            begin = len(self._text) - len(rest)
            if not self._ended and any(len(e) > len(rest) and e.startswith(rest) for e in (*ends, tag)):
                yield None
                continue
            ending = next((e for e in ends if rest.startswith(e)), None)
            if ending is not None:
                at = begin + len(ending)
                if ending not in ",;":
                    kept, closed = at, True
            elif rest.startswith(tag):
                self._drop(begin)
                return 0 if self._bare else len(tag)
            elif rest.startswith("{") and not closed:
                self._drop(begin)
                return 0
            else:
                self._drop(kept if self._text[kept:].strip() else len(self._text))
                return -1

    def _endings(self) -> list[str]:
        """What may close a call: what the template writes there, and the tag's own counterpart."""
        tag, end = self._call.tag, self._call.end
        ends = [end, ",", ";", "]"] if "[" in tag else [end, ",", ";"]
        if tag.startswith(("<", "[")) and len(tag) > 1:
            ends.append(tag[0] + "/" + tag[1:])
        if end.startswith("]") and len(end) > 1:
            ends += [end.removeprefix("]").strip()]
        return sorted({e for e in ends if e}, key=len, reverse=True)

    def _call_of(self, lead: str, text: str) -> ToolCall | None:
        value = json_object(text)
        if value is None:
            return None
        found = _structured(value, self._names)
        if found is not None:
            return ToolCall(*found)
        if any(isinstance(value.get(key), str) for key in _NAMES):
            return None  # of a tool that nobody offered, or without arguments
        name = _mentioned(lead, self._names)
        if name is not None:
            return ToolCall(name, _arguments(value) or value)
        name = _mentioned(text, self._names)
        return None if name is None else ToolCall(name, _arguments(value) or value)


def _name_of(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _arguments(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments in a call's object, which may be written as a string of JSON."""
    for key in _ARGUMENTS:
        found = value.get(key)
        if isinstance(found, str):
            found = json_object(found)
        if isinstance(found, dict):
            return found
    return None


def _structured(value: Mapping[str, Any], names: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of an object that is a call, or has one inside."""
    for key in _NAMES:
        if value.get(key) in names and isinstance(value[key], str):
            arguments = _arguments(value)
            return None if arguments is None else (value[key], arguments)
    for name in names:
        if isinstance(value.get(name), dict):
            return name, value[name]
    for item in value.values():
        for inner in item if isinstance(item, list) else [item]:
            if isinstance(inner, dict) and (found := _structured(inner, names)) is not None:
                return found
    return None


def _mentioned(text: str, names: list[str]) -> str | None:
    """The name that stands first in a text, the longest of those that begin there."""
    places = [(at, -len(name), name) for name in names if name and (at := text.find(name)) >= 0]
    return min(places)[2] if places else None
