"""ministral: `[TOOL_CALLS]NAME[ARGS]{…}`, thoughts in `[THINK]`."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking, ToolCall
from ollamapy.prompt.parsers.json_values import BraceScan, json_error, json_object
from ollamapy.prompt.parsers.schema_values import tool_name, tool_named

_CALL, _ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
_THINK, _THINK_END = "[THINK]", "[/THINK]"


class MinistralParser(Parser, names=("ministral",)):
    has_tools = True
    visible = (_CALL, _ARGUMENTS, _THINK, _THINK_END)

    def read(self) -> Reading:
        while (tag := (yield from self._upto(Content, _CALL, _THINK, trim=True))) is not None:
            if tag == _CALL:
                yield from self._call()
            elif (yield from self._upto(Thinking, _THINK_END)) is not None:
                yield from self._skip_blanks()

    def _call(self) -> Reading:
        name = yield from self._inside(_ARGUMENTS)
        if name is None:
            yield from self._unfinished(_CALL, *map(tool_name, self.tools))
            return
        scan = BraceScan()
        while (end := scan.end(self._text)) is None:
            if not (yield from self._wait()):
                yield from self._unfinished(_CALL + name + _ARGUMENTS, "{")
                return
        text = self._drop(end)
        arguments = json_object(text)
        raw = _CALL + name + _ARGUMENTS + text
        name = name.strip()
        if tool_named(self.tools, name) is None:
            yield from self._broken(f"tool '{name}' not found", raw)
        elif arguments is None:
            yield from self._broken(json_error(text), raw)
        else:
            yield ToolCall(name, arguments)
