"""gemma4, gemma4-no-thinking: `<|tool_call>call:NAME{key:value}<tool_call|>`, thoughts in `<|channel>thought`."""

from __future__ import annotations

import re

from ollamapy.prompt.parsers.bare_values import BareValues
from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking, ToolCall

_THINK, _THINK_END = "<|channel>", "<channel|>"
_CALL, _CALL_END = "<|tool_call>", "<tool_call|>"
_RESPONSE, _MARK = "<|tool_response>", '<|"|>'
_FORM = re.compile(r"\s*call:([^{]+)(\{.*)", re.DOTALL)
_VALUES = BareValues(_MARK)


def _call(text: str, repair: bool) -> ToolCall | None:
    """The call of a text; repair: the end of a string and of the object may be missing."""
    match = _FORM.match(text)
    if match is None:
        return None
    candidates = [match[2]]
    if repair:
        candidates += [_with_mark(match[2]), match[2].rstrip() + "}", _with_mark(match[2]).rstrip() + "}"]
    for candidate in candidates:
        arguments = _VALUES.object(candidate)
        if arguments is not None:
            return ToolCall(match[1].strip(), arguments)
    return None


def _with_mark(text: str) -> str:
    """The text with the mark that its last string lacks, before what closes its list or object."""
    if text.count(_MARK) % 2 == 0:
        return text
    text = text.rstrip()
    return text[:-1] + _MARK + text[-1:] if text.endswith(("}", "]")) else text + _MARK


class Gemma4NoThinkingParser(Parser, names=("gemma4-no-thinking",)):
    has_tools = True
    visible = (_THINK, _THINK_END, _CALL, _CALL_END, _RESPONSE, _MARK)

    def read(self) -> Reading:
        if self.in_thought:
            yield from self._thought()
        while (tag := (yield from self._upto(Content, _THINK, _CALL, trim="at once"))) is not None:
            if tag == _CALL:
                yield from self._one_call()
            else:
                yield from self._starts("thought\n")
                yield from self._thought()

    @property
    def _told(self) -> bool:
        """Whether thoughts are wanted; those that are not are dropped."""
        return self.has_thinking and self._thinks

    def _thought(self) -> Reading:
        if (yield from self._upto(Thinking if self._told else None, _THINK_END, trim=True)) is not None:
            yield from self._skip_blanks()

    def _one_call(self) -> Reading:
        text = yield from self._inside(_CALL_END)
        if text is None:
            call = _call(self._unclosed(_CALL_END), repair=False)
            if call is None:
                yield from self._unfinished(_CALL, "call:")
            else:
                self._drop(len(self._text))
                yield call
            return
        call = _call(text, repair=True)
        yield Content(_CALL + text + _CALL_END) if call is None else call
        yield from self._skip_blanks()
        while (yield from self._starts(_CALL_END, _RESPONSE)) is not None:  # the model repeats them
            yield from self._skip_blanks()


class Gemma4Parser(Gemma4NoThinkingParser, names=("gemma4",)):
    has_thinking = True
    thought_tags = (_THINK, _THINK_END)

    def _in_thought(self) -> bool:
        last = self.setup.last  # behind a tool's result the prompt goes on with the thought before the call
        return self._thinks and last is not None and last.get("role") == "tool"

    def _may_think(self) -> bool:
        return self._thinks
