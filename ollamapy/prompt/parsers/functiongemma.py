"""functiongemma: `<start_function_call>call:NAME{key:value}`, strings between `<escape>`."""

from __future__ import annotations

import re
from typing import Any

from ollamapy.prompt.parsers.bare_values import BareValues
from ollamapy.prompt.parsers.base import Content, Parser, Reading, ToolCall

_CALL, _CALL_END = "<start_function_call>", "<end_function_call>"
_FORM = re.compile(r"\s*call:([^{]+)(\{.*\})", re.DOTALL)
_VALUES = BareValues("<escape>")


def _call(text: str) -> ToolCall | None:
    match = _FORM.match(text)
    arguments: Any = _VALUES.object(match[2]) if match is not None else None
    return None if match is None or arguments is None else ToolCall(match[1].strip(), arguments)


class FunctionGemmaParser(Parser, names=("functiongemma",)):
    has_tools = True
    visible = (_CALL, _CALL_END)

    def read(self) -> Reading:
        while (yield from self._upto(Content, _CALL)) is not None:
            text = yield from self._inside(_CALL_END)
            call = _call(self._unclosed(_CALL_END) if text is None else text)
            if call is not None:
                if text is None:
                    self._drop(len(self._text))
                yield call
            elif text is None:
                yield from self._unfinished(_CALL, "call:")
            else:
                yield Content(_CALL + text + _CALL_END)
