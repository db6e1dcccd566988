"""harmony (gpt-oss): messages in channels. Analysis is the thought, what has a recipient is a call, the rest
text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Setup, Thinking, Tool, ToolCall
from ollamapy.prompt.parsers.json_values import json_error, json_object

_START, _MESSAGE, _END = "<|start|>", "<|message|>", "<|end|>"
_CHANNEL, _CONSTRAIN = "<|channel|>", "<|constrain|>"
_BUILT_IN = ("browser.open", "browser.search", "browser.find", "python")


def identifier(name: str) -> str:
    """A tool's name as an identifier of TypeScript, which is how the prompt offers tools."""
    name = "".join("_" if c in " -." else c for c in name if c in " -._$" or c.isalpha() or c.isdecimal())
    if not name:
        return "unnamed"
    return "_" + name if name[0].isdecimal() else name


class HarmonyParser(Parser, names=("harmony",)):
    has_tools = True
    has_thinking = True
    opened_by_prompt = False
    thought_tags = (_CHANNEL + "analysis" + _MESSAGE, _CHANNEL + "final" + _MESSAGE)
    visible = (_START, _END, _MESSAGE, _CHANNEL, _CONSTRAIN)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._names: dict[str, str] = {}  # by the name that the model sees
        self.tools = [self._renamed(tool) for tool in setup.tools]

    def _renamed(self, tool: Tool) -> Tool:
        function = tool.get("function")
        if not isinstance(function, Mapping) or not function.get("name"):
            return tool
        name = str(function["name"])
        shown = base = identifier(name)
        count = 2
        while shown in self._names:
            shown, count = f"{base}_{count}", count + 1
        if name in _BUILT_IN:
            shown = name
        self._names[shown] = name
        return {**tool, "function": {**function, "name": shown}}

    def read(self) -> Reading:
        channel, recipient = self._begun()
        if not channel:
            yield from self._starts(_START)
        while True:
            if not channel:
                header = yield from self._inside(_MESSAGE)
                if header is None:
                    return
                channel, recipient = parsed_header(header)
            if recipient and channel != "final":
                yield from self._call(recipient)
            elif channel == "analysis":
                yield from self._upto(Thinking, _END)
            else:
                yield from self._upto(Content, _END)
            channel = ""
            if (yield from self._upto(None, _START)) is None:
                return

    def _in_thought(self) -> bool:
        return self._begun()[0] != "final"

    def _begun(self) -> tuple[str, str]:
        """The channel of the message that the request begins."""
        last: Mapping[str, Any] = self.setup.last or {}
        if last.get("role") != "assistant":
            return "", ""
        if last.get("content"):
            return "final", ""
        return ("analysis", "") if last.get("thinking") else ("", "")

    def _call(self, recipient: str) -> Reading:
        """The arguments of a call, up to the end of its message or of the text."""
        inside = yield from self._inside(_END)
        text = self._drop(len(self._text)) if inside is None else inside
        name = recipient.removeprefix("functions.")
        arguments = json_object(text)
        if not text.strip() and not (inside is None and self._cut):
            arguments = {}  # of a tool that takes none
        if arguments is not None:
            yield ToolCall(self._names.get(name, name), arguments)
        elif inside is None and self._cut:
            self.unfinished_call = True
        else:
            message = f"error parsing tool call: raw='{text}', err={json_error(text)}"
            yield from self._broken(message, text)


def parsed_header(text: str) -> tuple[str, str]:
    """Channel and recipient of a header such as `assistant<|channel|>commentary to=functions.add`."""
    text = text.replace(_CONSTRAIN, " " + _CONSTRAIN)
    before, found, after = text.partition(_CHANNEL)
    words = after.split(None, 1) if found and after[:1].strip() else ["", after]
    channel = words[0]
    rest = f"{before} {words[1] if len(words) > 1 else ''}".split()
    recipient = next((word[3:] for word in rest if word.startswith("to=")), "")
    return channel or ("final" if not found else ""), recipient
