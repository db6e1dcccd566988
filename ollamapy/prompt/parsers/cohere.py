"""cohere (Command A, North): blocks of thinking, text and actions, each in tags of its own."""

from __future__ import annotations

from typing import Any

from ollamapy.prompt.parsers.base import Content, Parser, Reading, Thinking, ToolCall
from ollamapy.prompt.parsers.json_values import BraceScan, json_object, json_value

_THINK, _THINK_END = "<|START_THINKING|>", "<|END_THINKING|>"
_TEXT, _TEXT_END = "<|START_TEXT|>", "<|END_TEXT|>"
_RESPONSE, _RESPONSE_END = "<|START_RESPONSE|>", "<|END_RESPONSE|>"  # older templates
_ACTION, _ACTION_END = "<|START_ACTION|>", "<|END_ACTION|>"
_TURN_END = "<|END_OF_TURN_TOKEN|>"


def _action(value: Any) -> list[ToolCall]:
    if not isinstance(value, dict) or not isinstance(value.get("tool_name"), str):
        return []
    parameters = value.get("parameters")
    return [ToolCall(value["tool_name"], parameters if isinstance(parameters, dict) else {})]


def _actions(text: str) -> list[ToolCall]:
    """The calls of a list; of one that is no JSON as a whole, those of its objects that are."""
    try:
        values = json_value(text)
    except ValueError:
        values = []
        at = text.find("{")
        while at >= 0 and (end := BraceScan(at).end(text)) is not None:
            values.append(json_object(text[at:end]))
            at = text.find("{", end)
    return [call for value in (values if isinstance(values, list) else [values]) for call in _action(value)]


class CohereParser(Parser, names=("cohere",)):
    has_tools = True
    has_thinking = True
    opened_by_prompt = False
    thought_tags = (_THINK, _TEXT)  # a grammar's text begins with the block of text
    visible = (
        _THINK, _THINK_END, _TEXT, _TEXT_END, _RESPONSE, _RESPONSE_END, _ACTION, _ACTION_END
    )  # fmt: skip

    def read(self) -> Reading:
        in_text = self._goes_on
        if not in_text and (self.setup.think is None or self._thinks):
            yield from self._upto(Thinking, _THINK_END, trim=True)
        while True:
            if in_text and (yield from self._upto(Content, _TEXT_END, _RESPONSE_END, _TURN_END)) is None:
                return
            yield from self._skip_blanks()
            tag = yield from self._starts(_TEXT, _RESPONSE, _ACTION, _TURN_END)
            in_text = tag in (_TEXT, _RESPONSE, None)
            if tag == _ACTION:
                yield from self._action_block()
            if self._ended and not self._text:
                return

    def _in_thought(self) -> bool:
        return not self._goes_on

    def _action_block(self) -> Reading:
        text = yield from self._inside(_ACTION_END)
        calls = _actions(self._unclosed(_ACTION_END) if text is None else text)
        yield from calls
        if text is None:
            if calls:
                self._drop(len(self._text))
            else:
                yield from self._unfinished(_ACTION, "[", "{")
        elif not calls and text.strip(" \t\r\n[]"):
            yield Content(_ACTION + text + _ACTION_END)
