"""qwen3-vl-instruct, qwen3-vl-thinking: as qwen3; the thinking model always thinks."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking
from ollamapy.prompt.parsers.json_values import json_error, json_object, named_call

_THINK_END = "</think>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"


class Qwen3VLParser(Parser):
    has_tools = True
    visible = (_THINK_END, _CALL, _CALL_END)

    def read(self) -> Reading:
        tag: str | None = None
        if self.in_thought:
            tag = yield from self._upto(Thinking, _THINK_END, _CALL, trim=True)
            if tag == _THINK_END:
                yield from self._skip_blanks()
        while True:
            if tag == _CALL:
                yield from self._call()
            tag = yield from self._upto(Content, _CALL, trim=True)
            if tag is None:
                return

    def _call(self) -> Reading:
        text = yield from self._inside(_CALL_END)
        if text is None:
            call = named_call(self._text)
            if call is None:
                yield from self._unfinished(_CALL)
            else:
                self._drop(len(self._text))
                yield call
            return
        call = named_call(text)
        if call is not None:
            yield call
        else:
            message = json_error(text) if json_object(text) is None else "a tool call without a name"
            yield from self._broken(message, _CALL + text + _CALL_END)
        yield from self._skip_blanks()


class Qwen3VLThinkingParser(Qwen3VLParser):
    has_thinking = True
    thought_tags = ("<think>", _THINK_END)

    def _in_thought(self) -> bool:
        return not self._goes_on
