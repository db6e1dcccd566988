"""olmo3-think: always a thought first, no calls."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking

_THINK_END = "</think>"


class Olmo3ThinkParser(Parser, names=("olmo3-think",)):
    has_thinking = True
    thought_tags = ("<think>", _THINK_END)
    visible = (_THINK_END,)

    def read(self) -> Reading:
        if self.in_thought:
            yield from self._upto(Thinking, _THINK_END, trim=True)
        yield from self._rest(Content)

    def _in_thought(self) -> bool:
        return not self._goes_on
