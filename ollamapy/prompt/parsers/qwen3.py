"""qwen3, qwen3-thinking: calls are JSON in `<tool_call>`; a thought ends with `</think>` or with a call."""

from __future__ import annotations

from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking
from ollamapy.prompt.parsers.json_values import json_error, json_object, named_call

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"


class Qwen3Parser(Parser, names=("qwen3",)):
    has_tools = True
    visible: Sequence[str] = (THINK, THINK_END, CALL, CALL_END)

    def read(self) -> Reading:
        tag: str | None = None
        if self.in_thought:
            yield from self._start()
            tag = yield from self._upto(Thinking, THINK_END, CALL, trim=True)
            if tag == THINK_END:
                yield from self._skip_blanks()
        while True:
            if tag == CALL:
                yield from self._call()
            tag = yield from self._upto(Content, CALL, trim=True)
            if tag is None:
                return

    def _start(self) -> Reading:
        """What may stand at the beginning of a thought."""
        yield from self._echo(THINK)

    def _call(self) -> Reading:
        text = yield from self._inside(CALL_END)
        call = named_call(self._unclosed(CALL_END) if text is None else text)
        if text is None and call is None:
            yield from self._unfinished(CALL, "{")
        elif text is None:
            self._drop(len(self._text))
        if call is not None:
            yield call
        elif text is not None:
            yield from self._broken(self._error(text), CALL + text + CALL_END)

    def _error(self, text: str) -> str:
        """What is wrong with a call, in Ollama's words."""
        if json_object(text) is not None:
            return "empty function name"
        return f"failed to parse JSON: {json_error(text)}"


class Qwen3ThinkingParser(Qwen3Parser, names=("qwen3-thinking",)):
    has_thinking = True
    thought_tags = (THINK, THINK_END)

    def _in_thought(self) -> bool:
        return self.setup.think is None or self._thinks
