"""glimmer: messages with a recipient: the user, the model itself (a thought), or a tool, called in XML."""

from __future__ import annotations

import re
from collections.abc import Generator

from ollamapy.prompt.parsers.base import Content, Parser, Piece, Reading, Thinking, ToolCall
from ollamapy.prompt.parsers.schema_values import parameter_types, tool_name, tool_named, typed_value

_START, _MESSAGE = "<|start|>", "<|message|>"
_ENDS = ("<|eom|>", "<|eot|>")
_HEADER = _START + "assistant"
_CALLS, _CALLS_END = "<atem:function_calls>", "</atem:function_calls>"
_INVOKE = re.compile(
    r'<atem:invoke name="([^"<]*?)(?:<\|message\|>)?(?:">|(?=<atem:parameter))(.*?)</atem:invoke>', re.DOTALL
)
_PARAMETER = re.compile(r'<atem:parameter name="([^"]*)">(.*?)</atem:parameter>', re.DOTALL)


class GlimmerParser(Parser, names=("glimmer",)):
    has_tools = True
    has_thinking = True
    opened_by_prompt = False
    thought_tags = ("to=self" + _MESSAGE, "to=user" + _MESSAGE)  # a grammar's text is for the user
    visible = (_START, _MESSAGE, *_ENDS)

    def read(self) -> Reading:
        while self._text or (yield from self._wait()):
            recipient = yield from self._header()
            if recipient is None:
                yield from self._upto(Content, *_ENDS, _HEADER)
            elif recipient == "self":
                wanted = self.setup.think is None or self._thinks
                yield from self._upto(Thinking if wanted else None, *_ENDS, _HEADER)
            else:
                yield from self._message(self._resolved(recipient))

    def _in_thought(self) -> bool:
        return True

    def _header(self) -> Generator[Piece | None, None, str | None]:
        """To whom the next message goes, None when there is no header."""
        yield from self._starts(_HEADER)
        while (end := self._text.find(_MESSAGE)) < 0:
            text = self._text.lstrip()
            if (
                text
                and not text.startswith(("to=", _MESSAGE))
                and not any(head.startswith(text) for head in ("to=", _MESSAGE))
            ):
                return None
            if not (yield from self._wait()):
                return None
        header = self._drop(end)
        self._drop(len(_MESSAGE))
        return header.strip().removeprefix("to=").strip()

    def _message(self, recipient: str) -> Reading:
        """A message to the user or a tool. One that is nothing but a call of an offered tool is its call, to
        whomever it goes."""
        is_call = bool(self.tools) and (yield from self._opens_calls()) is not None
        if not is_call and tool_named(self.tools, recipient) is None:
            yield from self._upto(Content, *_ENDS, _HEADER)
            return
        inside = yield from self._inside(_CALLS_END)
        if inside is None:
            yield from self._unfinished("", _CALLS)
            return
        text = inside + _CALLS_END
        calls = self._calls(text)
        if calls:
            yield from calls
        elif tool_named(self.tools, recipient) is not None:
            yield from self._broken(f"parse Glimmer call to {recipient}", text)
        else:
            yield Content(text)
        yield from self._upto(Content if not calls else None, *_ENDS, _HEADER)

    def _opens_calls(self) -> Generator[Piece | None, None, str | None]:
        """Whether the message begins with the tag of calls; nothing is dropped."""
        while True:
            text = self._text.lstrip()
            if text.startswith(_CALLS):
                return _CALLS
            if not _CALLS.startswith(text) or not (yield from self._wait()):
                return None

    def _calls(self, text: str) -> list[ToolCall]:
        calls = []
        for name, body in _INVOKE.findall(text.strip().removeprefix(_CALLS)):
            tool = tool_named(self.tools, self._resolved(name))
            if tool is None:
                return []
            pairs = _PARAMETER.findall(body)
            arguments = {key: typed_value(value, parameter_types(tool, key)) for key, value in pairs}
            calls.append(ToolCall(tool_name(tool), arguments))
        return calls

    def _resolved(self, name: str) -> str:
        """The tool of a name: `read.read` is the tool `read` of the namespace that the prompt gives it."""
        space, dot, tool = name.partition(".")
        if tool_named(self.tools, name) is None and dot and tool.partition(".")[0] == space:
            return tool
        return name
