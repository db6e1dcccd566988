"""LFM2 of Liquid AI, with and without thoughts: ChatML, with calls as Python would write them."""

from __future__ import annotations

from functools import partial

from ollamapy.prompt.go_values import to_json, trim
from ollamapy.prompt.renderers.conversation import Call, Think, Tool, Turn
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "<|startoftext|>"


def _tool(tool: Tool) -> str:
    return to_json(tool.function if tool.name else tool.plain, html=False, spaces=True)


def _system(text: str, tools: Tools) -> str:
    if tools:
        offered = ", ".join(_tool(tool) for tool in tools)
        text += ("\n" if text else "") + f"List of tools: <|tool_list_start|>[{offered}]<|tool_list_end|>"
    return f"<|im_start|>system\n{text}<|im_end|>\n" if text else ""


def _calls(calls: tuple[Call, ...]) -> str:
    written = []
    for call in calls:
        values = {
            name: to_json(call.arguments[name], html=False, spaces=True) for name in sorted(call.arguments)
        }
        written.append(f"{call.name}({','.join(f'{name}={text}' for name, text in values.items())})")
    return f"<|tool_call_start|>[{','.join(written)}]<|tool_call_end|>"


def _assistant(turn: Turn, content: str, thinking: bool, keeps_thoughts: bool) -> str:
    if turn.calls and "<|tool_call_start|>" not in content:
        content = _calls(turn.calls) + ("\n" if trim(content) else "") + content
    if thinking and turn.thinking and "</think>" not in content:
        content = f"<think>{turn.thinking}</think>{content}"
    if not keeps_thoughts and "</think>" in content:
        content = trim(content.rpartition("</think>")[2])
    return content


def _render(turns: Turns, tools: Tools, think: Think, *, thinking: bool) -> str:
    system, images = "", 0
    if turns and turns[0].role == "system":
        system, images, turns = turns[0].content, turns[0].images, turns[1:]
    prompt = _BOS + _system(system, tools)
    answer = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    for i, turn in enumerate(turns):
        content = with_images(turn, images)
        images += turn.images
        if turn.role == "assistant":
            content = _assistant(turn, content, thinking, bool(thinking and think) or i == answer)
        elif turn.role == "tool" and "<|tool_response_start|>" not in content:
            content = f"<|tool_response_start|>{content}<|tool_response_end|>"
        prompt += f"<|im_start|>{turn.role}\n{content}"
        if turn.role != "assistant" or i + 1 < len(turns):
            prompt += "<|im_end|>\n"
    prefilled = bool(turns) and turns[-1].role == "assistant"
    return prompt + ("" if prefilled else "<|im_start|>assistant\n")


register("lfm2", partial(_render, thinking=False), _BOS)
register("lfm2-thinking", partial(_render, thinking=True), _BOS)
