"""Command A of Cohere (North)."""

from __future__ import annotations

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Call, Think, Tool, Turn
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_START = "<|START_OF_TURN_TOKEN|>"
_END = "<|END_OF_TURN_TOKEN|>"


def _tool(tool: Tool) -> str:
    shown = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters.plain,
        "responses": None,
    }
    return to_json(shown, spaces=True)


def _system(text: str, tools: Tools) -> str:
    offered = ",\n\n".join(f"\n    {_tool(tool)}" for tool in tools)
    text += "\n\n\n\n" if text else ""
    return f"{text}# Available Tools\n```json\n[\n{offered}\n\n\n]\n```"


def _thoughts(turn: Turn) -> str:
    return f"<|START_THINKING|>{turn.thinking}<|END_THINKING|>" if turn.thinking else ""


class _Numbers:
    """Calls are numbered through the conversation, whatever ids they come with."""

    def __init__(self) -> None:
        self._count = 0
        self._by_id: dict[str, str] = {}

    def of_call(self, call: Call) -> str:
        """The next number."""
        number = str(self._count)
        self._count += 1
        if call.id:
            self._by_id.setdefault(call.id, number)
        return number

    def of_result(self, turn: Turn) -> str:
        """The number of the call that a result answers, its own word where no call before has that id."""
        return self._by_id.get(turn.tool_call_id, turn.tool_call_id)


def _calls(turn: Turn, numbers: _Numbers) -> str:
    written = [
        f'\n\n    {{"tool_call_id": "{numbers.of_call(call)}", "tool_name": "{call.name}", '
        f'"parameters": {to_json(call.arguments, spaces=True)}}}'
        for call in turn.calls
    ]
    blank = "\n            \n                "  # the published template's own blanks
    return f"{blank}{_thoughts(turn)}<|START_ACTION|>[{','.join(written)}\n\n]<|END_ACTION|>"


def _result(turn: Turn, number: str) -> str:
    content = to_json({"content": turn.content}, spaces=True)
    return (
        f'\n    {{\n        "tool_call_id": "{number}",\n        "results": {{\n\n            \n            '
        f'"0": {content}\n\n        }},\n        "is_error": null\n    }}'
    )


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    system = ""
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    prompt = f"{_START}<|SYSTEM_TOKEN|><|START_TEXT|>{_system(system, tools)}<|END_TEXT|>{_END}"
    numbers = _Numbers()
    for i, turn in enumerate(turns):
        last = i + 1 == len(turns)
        if turn.role in ("system", "user"):
            prompt += f"{_START}<|{turn.role.upper()}_TOKEN|><|START_TEXT|>{turn.content}<|END_TEXT|>{_END}"
        elif turn.role in ("assistant", "chatbot") and turn.calls:
            prompt += f"{_START}<|CHATBOT_TOKEN|>{_calls(turn, numbers)}{_END}"
        elif turn.role in ("assistant", "chatbot"):
            prompt += f"{_START}<|CHATBOT_TOKEN|>{_thoughts(turn)}<|START_TEXT|>{turn.content}"
            if last:
                return prompt  # the answer goes on from here
            prompt += f"<|END_TEXT|>{_END}"
        elif turn.role == "tool":  # neighbours are one list
            first = i == 0 or turns[i - 1].role != "tool"
            prompt += f"{_START}<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[" if first else ","
            prompt += _result(turn, numbers.of_result(turn))
            if last or turns[i + 1].role != "tool":
                prompt += f"\n\n]<|END_TOOL_RESULT|>{_END}"
    ready = "<|START_THINKING|>" if think is None or think else "<|START_THINKING|><|END_THINKING|>"
    return f"{prompt}{_START}<|CHATBOT_TOKEN|>{ready}"


register("cohere", _render, "<BOS_TOKEN>")
