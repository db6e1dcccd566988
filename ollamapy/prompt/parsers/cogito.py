"""cogito: the calls of DeepSeek V3, `function<｜tool▁sep｜>NAME` with JSON in a block of code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Content, Reading, ToolCall
from ollamapy.prompt.parsers.deepseek3 import (
    CALL,
    CALL_END,
    CALLS,
    CALLS_END,
    OUTPUT,
    OUTPUT_END,
    OUTPUTS,
    OUTPUTS_END,
    SEPARATOR,
    THINK_END,
    DeepSeek3Parser,
)
from ollamapy.prompt.parsers.json_values import json_object

_CALL = re.compile(r"[^\n]*" + re.escape(SEPARATOR) + r"(.*?)\n```json\n(.*?)(?:\n```|$)", re.DOTALL)


class CogitoParser(DeepSeek3Parser, names=("cogito",)):
    visible: Sequence[str] = (
        THINK_END, CALLS, CALLS_END, CALL, CALL_END, SEPARATOR, OUTPUT, OUTPUT_END, OUTPUTS, OUTPUTS_END
    )  # fmt: skip

    def _in_thought(self) -> bool:
        return super()._in_thought() and not self.setup.tools  # with tools it does not think

    def _content(self) -> Reading:
        while (tag := (yield from self._upto(Content, CALLS, OUTPUTS))) is not None:
            if tag == CALLS:
                yield from self._calls()
            else:  # results that it makes up
                if (yield from self._inside(OUTPUTS_END)) is None:
                    self._drop(len(self._text))
                yield from self._skip_blanks()

    def _call(self, text: str) -> ToolCall | None:
        match = _CALL.match(text)
        arguments = json_object(match[2]) if match is not None else None
        return None if match is None or arguments is None else ToolCall(match[1].strip(), arguments)
