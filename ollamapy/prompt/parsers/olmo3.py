"""olmo3: calls as in Python, one a line, in `<function_calls>`."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading, ToolCall
from ollamapy.prompt.parsers.python_calls import python_calls
from ollamapy.prompt.parsers.schema_values import tool_name

_CALLS, _CALLS_END = "<function_calls>", "</function_calls>"


def _calls(text: str) -> list[ToolCall]:
    try:
        return python_calls(text)
    except ValueError:
        return []


class Olmo3Parser(Parser, names=("olmo3",)):
    has_tools = True
    visible = (_CALLS, _CALLS_END)

    def read(self) -> Reading:
        while (yield from self._upto(Content, _CALLS)) is not None:
            text = yield from self._inside(_CALLS_END)
            calls = _calls(self._unclosed(_CALLS_END) if text is None else text)
            if calls:
                if text is None:
                    self._drop(len(self._text))
                yield from calls
            elif text is None:
                yield from self._unfinished(_CALLS, *map(tool_name, self.tools))
            elif text.strip():
                yield Content(_CALLS + text + _CALLS_END)
