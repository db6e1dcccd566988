"""Command A of Cohere (North)."""

from __future__ import annotations

from collections.abc import Iterator

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Think, Tool, Turn
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


def _numbered(turns: Turns) -> tuple[dict[int, list[str]], dict[str, str]]:
    """Calls are numbered through the conversation: the numbers by turn, and by the ids they came with."""
    by_turn: dict[int, list[str]] = {}
    by_id: dict[str, str] = {}
    count = 0
    for i, turn in enumerate(turns):
        for call in turn.calls if turn.role in ("assistant", "chatbot") else ():
            by_turn.setdefault(i, []).append(str(count))
            if call.id:
                by_id.setdefault(call.id, str(count))
            count += 1
    return by_turn, by_id


def _calls(turn: Turn, numbers: list[str]) -> str:
    written = [
        f'\n\n    {{"tool_call_id": "{number}", "tool_name": "{call.name}", '
        f'"parameters": {to_json(call.arguments, spaces=True)}}}'
        for call, number in zip(turn.calls, numbers, strict=True)
    ]
    blank = "\n            \n                "  # the published template's own blanks
    return f"{blank}{_thoughts(turn)}<|START_ACTION|>[{','.join(written)}\n\n]<|END_ACTION|>"


def _result(turn: Turn, ids: dict[str, str]) -> str:
    number = ids.get(turn.tool_call_id, turn.tool_call_id)
    content = to_json({"content": turn.content}, spaces=True)
    return (
        f'\n    {{\n        "tool_call_id": "{number}",\n        "results": {{\n\n            \n            '
        f'"0": {content}\n\n        }},\n        "is_error": null\n    }}'
    )


def _results(turns: Turns, ids: dict[str, str]) -> Iterator[str]:
    """Per turn what it adds to the prompt as a tool's result: neighbours are one list."""
    for i, turn in enumerate(turns):
        first = i == 0 or turns[i - 1].role != "tool"
        last = i + 1 == len(turns) or turns[i + 1].role != "tool"
        opening = f"{_START}<|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[" if first else ","
        closing = f"\n\n]<|END_TOOL_RESULT|>{_END}" if last else ""
        yield f"{opening}{_result(turn, ids)}{closing}" if turn.role == "tool" else ""


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    system = ""
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    prompt = f"{_START}<|SYSTEM_TOKEN|><|START_TEXT|>{_system(system, tools)}<|END_TEXT|>{_END}"
    numbers, ids = _numbered(turns)
    for i, (turn, result) in enumerate(zip(turns, _results(turns, ids), strict=True)):
        if turn.role in ("system", "user"):
            prompt += f"{_START}<|{turn.role.upper()}_TOKEN|><|START_TEXT|>{turn.content}<|END_TEXT|>{_END}"
        elif turn.role in ("assistant", "chatbot"):
            prompt += f"{_START}<|CHATBOT_TOKEN|>"
            if turn.calls:
                prompt += _calls(turn, numbers[i]) + _END
                continue
            prompt += f"{_thoughts(turn)}<|START_TEXT|>{turn.content}"
            if i + 1 == len(turns):
                return prompt  # the answer goes on from here
            prompt += f"<|END_TEXT|>{_END}"
        prompt += result
    ready = "<|START_THINKING|>" if think is None or think else "<|START_THINKING|><|END_THINKING|>"
    return f"{prompt}{_START}<|CHATBOT_TOKEN|>{ready}"


register("cohere", _render, "<BOS_TOKEN>")
