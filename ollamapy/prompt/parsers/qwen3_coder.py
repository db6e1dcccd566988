"""qwen3-coder: calls are `<tool_call><function=NAME><parameter=KEY>` with values on lines of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Tool, ToolCall
from ollamapy.prompt.parsers.json_values import named_call
from ollamapy.prompt.parsers.schema_values import block_value, parameter_types, tool_named

CALL, CALL_END = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"<function=([^>]+)>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>]+)>(.*?)(?:</parameter>|(?=<parameter=)|$)", re.DOTALL)


def function_call(text: str, tools: Sequence[Tool]) -> ToolCall | None:
    """The call in the text between the tags; JSON, which the model writes by mistake, is read too."""
    match = _FUNCTION.search(text)
    if match is None:
        return named_call(text)
    name = match[1].strip()
    tool = tool_named(tools, name)
    arguments = {}
    for key, value in _PARAMETER.findall(match[2]):
        arguments[key.strip()] = block_value(value, parameter_types(tool, key.strip()))
    return ToolCall(name, arguments)


class Qwen3CoderParser(Parser, names=("qwen3-coder",)):
    has_tools = True
    visible: Sequence[str] = (CALL, CALL_END)

    def read(self) -> Reading:
        while (yield from self._upto(Content, CALL, trim=True)) is not None:
            yield from self._call()

    def _call(self) -> Reading:
        """A call, after its tag."""
        text = yield from self._inside(CALL_END)
        if text is None:
            if "</function>" in self._text:  # only the last tag is missing
                call = function_call(self._unclosed(CALL_END), self.tools)
                if call is not None:
                    self._drop(len(self._text))
                    yield call
                    return
            yield from self._unfinished(CALL, "<function=", "{")
            return
        call = function_call(text, self.tools)
        if call is None:
            yield from self._broken("a tool call without a function", CALL + text + CALL_END)
        else:
            yield call
