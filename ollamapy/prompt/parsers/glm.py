"""glm-4.7, glm-ocr: `<tool_call>NAME<arg_key>…</arg_key><arg_value>…</arg_value>`, tags often forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking, Tool, ToolCall
from ollamapy.prompt.parsers.schema_values import block_value, parameter_types, tool_name, tool_named

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
TAGS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_TAG = re.compile("|".join(TAGS))


def _pairs(text: str) -> tuple[str, list[tuple[str, str]], bool]:
    """Name, keys with values, and whether the last value is closed. A missing tag is where the next one, or
    text that is not blank, shows that it should have been."""
    first = _TAG.search(text)
    if first is None:
        return text.strip(), [], True
    name, rest = text[: first.start()].strip(), text[first.start() :]
    if first[0] != TAGS[0]:  # the name's word, and then a key without its tag
        name, *more = name.split(None, 1)
        rest = (TAGS[0] + more[0] if more else "") + rest
    pairs: list[tuple[str, str]] = []
    key: str | None = None
    expected = TAGS[0]  # what a text belongs to: the opening tag before it
    at = 0
    opened = False
    closed = True
    for tag in [*_TAG.finditer(rest), None]:
        piece = rest[at : tag.start()] if tag is not None else rest[at:]
        if piece.strip() or opened:
            if expected == TAGS[0]:
                key, expected = piece.strip(), TAGS[2]
            elif key is not None:
                pairs.append((key, piece))
                key, expected = None, TAGS[0]
            closed = tag is not None
        if tag is None:
            break
        at = tag.end()
        opened = tag[0] in (TAGS[0], TAGS[2])
    return name, pairs, closed and key is None


class GLMParser(Parser, names=("glm-ocr",)):
    """The family; who thinks has `<think>` in the prompt or writes it."""

    has_tools = True
    thought_tags = (THINK, THINK_END)
    visible = (THINK, THINK_END, CALL, CALL_END, *TAGS)

    def read(self) -> Reading:
        thought = self.in_thought
        if not thought and (yield from self._echo(THINK)):
            thought = True
            yield from self._skip_blanks()
        if thought and (yield from self._upto(Thinking, THINK_END, trim=True)) is not None:
            yield from self._skip_blanks()
        while (yield from self._upto(Content, CALL, trim=True)) is not None:
            yield from self._call()

    def _may_think(self) -> bool:
        return True

    def _call(self) -> Reading:
        text = yield from self._inside(CALL_END)
        if text is not None:
            call = arguments_call(text, self.tools)
            if call is None:
                yield from self._broken("empty function name", CALL + text + CALL_END)
            else:
                yield call
        elif (call := self._whole(self._unclosed(CALL_END))) is not None:
            self._drop(len(self._text))
            yield call
        else:
            yield from self._unfinished(CALL, *map(tool_name, self.tools))

    def _whole(self, text: str) -> ToolCall | None:
        """The call of a text without its last tag, if it is sure that nothing else is missing."""
        name, pairs, closed = _pairs(text)
        tool = tool_named(self.tools, name)
        if tool is None or not closed:
            return None
        parameters = tool["function"].get("parameters") or {}
        given = {key for key, _ in pairs}
        complete = all(key in given for key in parameters.get("required") or ())
        return arguments_call(text, self.tools) if complete else None


def arguments_call(text: str, tools: Sequence[Tool]) -> ToolCall | None:
    """The call of a text of a name, keys and values; None without a name."""
    name, pairs, _ = _pairs(text)
    tool = tool_named(tools, name)
    arguments = {key: block_value(value, parameter_types(tool, key)) for key, value in pairs}
    return ToolCall(name, arguments) if name else None


class GLM47Parser(GLMParser, names=("glm-4.7",)):
    has_thinking = True

    def _in_thought(self) -> bool:
        return self.setup.think is None or self._thinks
