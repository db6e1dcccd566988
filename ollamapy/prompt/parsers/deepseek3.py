"""deepseek3: `NAME<｜tool▁sep｜>{…}` in tags of its own; a thought ends with `</think>`."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ollamapy.prompt.parsers.base import Content, Parser, Piece, Reading, Thinking, ToolCall
from ollamapy.prompt.parsers.json_values import json_object

THINK_END = "</think>"
CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
OUTPUTS, OUTPUTS_END = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
OUTPUT, OUTPUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"


class DeepSeek3Parser(Parser, names=("deepseek3",)):
    has_tools = True
    has_thinking = True
    thought_tags = ("<think>", THINK_END)
    visible: Sequence[str] = (THINK_END, CALLS, CALLS_END, CALL, CALL_END, SEPARATOR, OUTPUT, OUTPUT_END)

    def read(self) -> Reading:
        if self.in_thought:
            yield from self._upto(Thinking, THINK_END, trim=True)
        yield from self._content()

    def _in_thought(self) -> bool:
        return self._thinks and not self._goes_on

    def _content(self) -> Reading:
        while (tag := (yield from self._upto(Content, CALLS, OUTPUT, OUTPUT_END))) is not None:
            if tag == CALLS:
                yield from self._calls()

    def _calls(self) -> Reading:
        """Calls up to the tag that ends them; what stands between them and is no white space stays text."""
        while (tag := (yield from self._between())) == CALL:
            text = yield from self._inside(CALL_END)
            if text is None:
                call = self._call(self._unclosed(CALL_END))
                if call is None:
                    yield from self._unfinished(CALL, "")
                else:
                    self._drop(len(self._text))
                    yield call
                return
            call = self._call(text)
            if call is not None:
                yield call
            else:
                yield Content(CALL + text + CALL_END)
        if tag is not None:
            yield from self._skip_blanks()

    def _between(self) -> Generator[Piece | None, None, str | None]:
        yield from self._skip_blanks()
        return (yield from self._upto(Content, CALL, CALLS_END, trim=True))

    def _call(self, text: str) -> ToolCall | None:
        name, found, rest = text.partition(SEPARATOR)
        arguments = json_object(rest) if found else None
        return None if arguments is None else ToolCall(name.strip(), arguments)
