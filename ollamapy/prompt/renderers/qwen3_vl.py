"""Qwen3-VL, instruct and thinking: ChatML, with tools and calls as JSON."""

from __future__ import annotations

from functools import partial

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Think
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CALL_FORM = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def is_tool_response(text: str) -> bool:
    """Whether a user's text is the result of a call, as some clients send them."""
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def _system(text: str | None, tools: Tools) -> str:
    if tools:
        offered = "".join(f"\n{to_json(tool.plain, spaces=True)}" for tool in tools)
        text = ("" if text is None else f"{text}\n\n") + _TOOLS + offered + _CALL_FORM
    return "" if text is None else f"<|im_start|>system\n{text}<|im_end|>\n"


def _render(turns: Turns, tools: Tools, think: Think, *, thinking: bool) -> str:
    thinks = thinking if think is None else bool(think)
    has_system = bool(turns) and turns[0].role == "system"
    prompt = _system(turns[0].content if has_system else None, tools)
    questions = [
        i for i, turn in enumerate(turns) if turn.role == "user" and not is_tool_response(with_images(turn))
    ]
    question = questions[-1] if questions else len(turns) - 1  # thoughts before it are forgotten
    images = 0
    for i, turn in enumerate(turns):
        content = with_images(turn, images)
        images += turn.images
        last = i + 1 == len(turns)
        if turn.role == "user" or (turn.role == "system" and i):
            prompt += f"<|im_start|>{turn.role}\n{content}<|im_end|>\n"
        elif turn.role == "assistant":
            prompt += "<|im_start|>assistant\n"
            if thinks and i > question and (last or turn.thinking):
                prompt += "<think>\n" + turn.thinking.strip("\n")
                prompt += "\n</think>\n\n" + content.lstrip("\n") if content else ""
            else:
                prompt += content
            for j, call in enumerate(turn.calls):
                prompt += "\n" if j or content else ""
                arguments = to_json(call.arguments, spaces=True)
                prompt += f'<tool_call>\n{{"name": "{call.name}", "arguments": {arguments}}}\n</tool_call>'
            prompt += "" if last else "<|im_end|>\n"
        elif turn.role == "tool":  # neighbours share one turn of the user
            if i == 0 or turns[i - 1].role != "tool":
                prompt += "<|im_start|>user"
            prompt += f"\n<tool_response>\n{content}\n</tool_response>"
            if last or turns[i + 1].role != "tool":
                prompt += "<|im_end|>\n"
    if turns and turns[-1].role != "assistant":
        prompt += "<|im_start|>assistant\n" + ("<think>\n" if thinks else "")
    return prompt


register("qwen3-vl-instruct", partial(_render, thinking=False))
register("qwen3-vl-thinking", partial(_render, thinking=True))
