"""qwen3-vl-instruct, qwen3-vl-thinking: as qwen3, but the thinking model always thinks, and `<think>` is text."""

from __future__ import annotations

from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Reading
from ollamapy.prompt.parsers.json_values import json_error, json_object
from ollamapy.prompt.parsers.qwen3 import CALL, CALL_END, THINK, THINK_END, Qwen3Parser


class Qwen3VLParser(Qwen3Parser, names=("qwen3-vl-instruct",)):
    visible: Sequence[str] = (THINK_END, CALL, CALL_END)

    def _start(self) -> Reading:
        yield from ()

    def _call(self) -> Reading:
        yield from super()._call()
        yield from self._skip_blanks()

    def _error(self, text: str) -> str:
        return json_error(text) if json_object(text) is None else "a tool call without a name"


class Qwen3VLThinkingParser(Qwen3VLParser, names=("qwen3-vl-thinking",)):
    has_thinking = True
    thought_tags = (THINK, THINK_END)

    def _in_thought(self) -> bool:
        return not self._goes_on
