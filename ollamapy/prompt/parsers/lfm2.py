"""lfm2, lfm2-thinking: calls as in Python in `<|tool_call_start|>`; the model thinks when it writes `<think>`."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking, ToolCall
from ollamapy.prompt.parsers.python_calls import python_calls

_THINK, _THINK_END = "<think>", "</think>"
_CALLS, _CALLS_END = "<|tool_call_start|>", "<|tool_call_end|>"


def _calls(text: str) -> list[ToolCall]:
    try:
        return python_calls(text, raw_strings=True)
    except ValueError:
        return []


class LFM2Parser(Parser, names=("lfm2",)):
    has_tools = True
    visible = (_THINK, _THINK_END, _CALLS, _CALLS_END)

    def read(self) -> Reading:
        if self.thought is not None:
            thinks = self.in_thought or (yield from self._echo(_THINK))
            yield from self._skip_blanks()
            if thinks and (yield from self._upto(Thinking, _THINK_END, trim=True)) is not None:
                yield from self._skip_blanks()
        while (yield from self._upto(Content, _CALLS)) is not None:
            yield from self._block()

    def _block(self) -> Reading:
        text = yield from self._inside(_CALLS_END)
        calls = _calls(self._unclosed(_CALLS_END) if text is None else text)
        if text is None:
            if not calls:
                yield from self._unfinished(_CALLS, "[")
                return
            self._drop(len(self._text))
        if calls:
            yield from calls
        else:
            yield Content(f"{_CALLS}{text}{_CALLS_END}")
        yield from self._skip_blanks()


class LFM2ThinkingParser(LFM2Parser, names=("lfm2-thinking",)):
    has_thinking = True
    thought_tags = (_THINK, _THINK_END)

    def _may_think(self) -> bool:
        return self._thinks and not self._goes_on
