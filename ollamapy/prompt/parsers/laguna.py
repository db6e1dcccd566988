"""laguna, poolside-v1: the calls of GLM or JSON in `<tool_call>`, and what the model writes in their place."""

from __future__ import annotations

import re
from collections.abc import Generator

from ollamapy.prompt.parsers.base import Content, Parser, Piece, Reading, Setup, Thinking, ToolCall
from ollamapy.prompt.parsers.glm import CALL, CALL_END, TAGS, THINK, THINK_END
from ollamapy.prompt.parsers.json_values import BraceScan, json_object, named_call
from ollamapy.prompt.parsers.schema_values import block_value, parameter_types, tool_name, tool_named

_USER, _USER_END = "<user>", "</user>"
_MOST_FAILURES = 100  # braces and tags that turn out to begin no call
_PAIR = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_ALIASES = {"read_file": "read", "write_file": "write", "edit_file": "edit", "web_fetch": "webfetch"}


class LagunaParser(Parser, names=("laguna",)):
    has_tools = True
    has_thinking = True
    thought_tags = (THINK, THINK_END)
    visible = (THINK, THINK_END, CALL, CALL_END, _USER, _USER_END, *TAGS)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._failures = 0

    def read(self) -> Reading:
        if self.in_thought:
            if not (yield from self._echo(THINK)):
                yield from self._skip_blanks()
            yield from self._thought()
        yield from self._skip_blanks()  # only here: behind a thought within the content they are text
        yield from self._content()

    def _in_thought(self) -> bool:
        return self._thinks and not self._continues()

    def _may_think(self) -> bool:
        return self._thinks

    def _continues(self) -> bool:
        """Whether the prompt goes on with the assistant's last message, behind its thought."""
        last = self.setup.last
        return last is not None and last.get("role") == "assistant"

    def _thought(self) -> Reading:
        kind = Thinking if self._thinks else None
        tag = yield from self._upto(kind, THINK_END, CALL, trim="before a whole tag")
        if tag == CALL:
            yield from self._call()

    def _content(self) -> Reading:
        offered = (_USER, "{") if self.tools else ()
        while True:
            if self._failures >= _MOST_FAILURES:  # looking on would take longer than reading
                offered = ()
            while (yield from self._echo(THINK_END)):
                pass
            tag = yield from self._upto(Content, THINK, CALL, *offered, trim="before a whole tag")
            if tag is None:
                return
            if tag == THINK:
                yield from self._skip_blanks()
                yield from self._thought()
            elif tag == CALL:
                yield from self._call()
            elif tag == _USER:
                yield from self._in_place_of_a_call()
            else:
                yield from self._object()

    def _call(self) -> Reading:
        text = yield from self._inside(CALL_END)
        if text is None:
            whole = self._unclosed(CALL_END).rstrip()
            call = self._call_of(whole) if whole.endswith((TAGS[-1], "}")) else None
            if call is None:
                yield from self._unfinished(CALL, "{", *map(tool_name, self.tools))
            else:
                self._drop(len(self._text))
                yield call
            return
        call = self._call_of(text)
        if call is None:
            yield from self._broken("failed to parse Laguna tool call", CALL + text + CALL_END)
        else:
            yield call
        yield from self._skip_blanks()

    def _in_place_of_a_call(self) -> Reading:
        """A call of an offered tool in the user's tag."""
        text = yield from self._inside(_USER_END)
        call = None if text is None else self._call_of(text)
        if text is None:
            self._failures += 1
            yield Content(_USER)
        elif call is None or tool_named(self.tools, call.name) is None:
            yield Content(_USER + text + _USER_END)
        else:
            yield call
            yield from self._skip_blanks()

    def _object(self) -> Reading:
        """A brace in the text: a call without a tag, or text."""
        self._text = "{" + self._text
        end = yield from self._object_end()
        call = named_call(self._text[:end]) if end is not None else None
        if call is None or tool_named(self.tools, self._resolved(call.name)) is None:
            self._failures += end is None
            yield Content(self._drop(1 if end is None else end))
            return
        self._drop(end or 0)
        yield ToolCall(self._resolved(call.name), call.arguments)
        yield from self._skip_blanks()

    def _object_end(self) -> Generator[Piece | None, None, int | None]:
        """Where the object ends, None for one that cannot be a call's."""
        scan = BraceScan()
        while (end := scan.end(self._text)) is None:
            if self._text[1:].lstrip()[:1] not in ("", '"') or not (yield from self._wait()):
                return None
        return end

    def _resolved(self, name: str) -> str:
        """An offered tool's name for one that the model mixes up with it."""
        alias = _ALIASES.get(name)
        known = tool_named(self.tools, name) is not None
        return alias if alias is not None and not known and tool_named(self.tools, alias) else name

    def _call_of(self, text: str) -> ToolCall | None:
        text = text.strip()
        while text.startswith(CALL):
            text = text[len(CALL) :].strip()
        text = text.partition(CALL)[0].strip()
        if text.startswith("{"):
            call = named_call(text)
            return None if call is None else ToolCall(self._resolved(call.name), call.arguments)
        start = text.find(TAGS[0]) if TAGS[0] in text else text.find("{")
        name = self._resolved((text if start < 0 else text[:start]).strip())
        rest = "" if start < 0 else text[start:].strip()
        if not name:
            return None
        if rest.startswith("{"):
            arguments = json_object(rest)
            return None if arguments is None else ToolCall(name, arguments)
        tool = tool_named(self.tools, name)
        pairs = [(key.strip(), value) for key, value in _PAIR.findall(rest)]
        return ToolCall(name, {key: block_value(value, parameter_types(tool, key)) for key, value in pairs})


class LagunaV8Parser(LagunaParser, names=("poolside-v1",)):
    def _continues(self) -> bool:
        return False  # its prompt closes the assistant's last message and begins a new one
