"""qwen3.5 and ornith: a thought that the prompt opens, then what qwen3-coder writes."""

from __future__ import annotations

from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Reading, Thinking
from ollamapy.prompt.parsers.qwen3_coder import CALL, CALL_END, Qwen3CoderParser

_THINK, _THINK_END = "<think>", "</think>"


class Qwen35Parser(
    Qwen3CoderParser,
    names=(
        "ornith",
        "qwen3.5",
    ),
):
    has_thinking = True
    thought_tags = (_THINK, _THINK_END)
    visible: Sequence[str] = (_THINK, _THINK_END, CALL, CALL_END)

    def read(self) -> Reading:
        if self.in_thought:
            if (yield from self._echo(_THINK)):
                yield from self._skip_blanks()
            tag = yield from self._upto(Thinking, _THINK_END, CALL, trim=True)
            if tag == CALL:
                yield from self._call()
            elif tag is not None:
                yield from self._skip_blanks()
        yield from super().read()

    def _in_thought(self) -> bool:
        return (self.setup.think is None or self._thinks) and not self._goes_on
