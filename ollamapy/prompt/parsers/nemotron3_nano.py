"""nemotron-3-nano, nemotron-3.5-nano: as qwen3.5, and white space before the thought is dropped."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Reading
from ollamapy.prompt.parsers.qwen35 import Qwen35Parser


class Nemotron3NanoParser(
    Qwen35Parser,
    names=(
        "nemotron-3-nano",
        "nemotron-3.5-nano",
    ),
):
    def read(self) -> Reading:
        if self.in_thought:
            yield from self._skip_blanks()
        yield from super().read()
