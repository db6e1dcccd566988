"""Olmo 3 of Ai2, instruct (3, 3.1) and thinking."""

from __future__ import annotations

from functools import partial

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Call, Think
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_HELPFUL = "You are a helpful function-calling AI assistant. "
_OLMO = (
    "You are Olmo, a helpful AI assistant built by Ai2. Your date cutoff is December 2024, and your model weights "
    "are available at https://huggingface.co/allenai."
)
_NO_FUNCTIONS = "You do not currently have access to any functions. "
_FUNCTIONS = (
    "You are provided with function signatures within <functions></functions> XML tags. You may call one or more "
    "functions to assist with the user query. Output any function calls within "
    "<function_calls></function_calls> XML tags. Do not make assumptions about what values to plug into functions."
)


def _system(turns: Turns) -> str | None:
    """The text of the first system message; later ones are dropped."""
    return next((turn.content for turn in turns if turn.role == "system"), None)


def _calls(calls: tuple[Call, ...]) -> str:
    written = []
    for call in calls:
        arguments = [f"{name}={to_json(call.arguments[name])}" for name in sorted(call.arguments)]
        written.append(f"{call.name}({', '.join(arguments)})")
    return "<function_calls>" + "\n".join(written) + "</function_calls>"


def _render(turns: Turns, tools: Tools, think: Think, *, identity: str) -> str:
    system = _system(turns)
    functions = to_json([tool.plain for tool in tools], spaces=True) if tools else ""
    if system is None:
        system = identity + (_FUNCTIONS if tools else _NO_FUNCTIONS) + f"<functions>{functions}</functions>"
    elif tools:
        system += f"<functions>{functions}</functions>"
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n"
    turns = [turn for turn in turns if turn.role != "system"]
    for i, turn in enumerate(turns):
        if turn.role == "user":
            prompt += f"<|im_start|>user\n{turn.content}<|im_end|>\n"
        elif turn.role == "assistant":
            prompt += f"<|im_start|>assistant\n{turn.content}{_calls(turn.calls) if turn.calls else ''}"
            if turn.calls or i + 1 < len(turns):
                prompt += "<|im_end|>\n"
        elif turn.role == "tool":
            prompt += f"<|im_start|>environment\n{turn.content}<|im_end|>\n"
    last = turns[-1] if turns else None
    prefilled = last is not None and last.role == "assistant" and last.content and not last.calls
    return prompt + ("" if prefilled else "<|im_start|>assistant\n")


def _render_thinking(turns: Turns, tools: Tools, think: Think, *, identity: str) -> str:
    system = _system(turns)
    if system is not None:
        system += f" {_NO_FUNCTIONS}<functions></functions>"
    prompt = f"<|im_start|>system\n{identity if system is None else system}<|im_end|>\n"
    for turn in turns:
        if turn.role in ("user", "assistant"):
            prompt += f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n"
    return prompt + "<|im_start|>assistant\n<think>"


register("olmo3", partial(_render, identity=_HELPFUL))
register("olmo3.1", partial(_render, identity=f"{_OLMO} "))
register("olmo3-think", partial(_render_thinking, identity=_OLMO))
register("olmo3-32b-think", partial(_render_thinking, identity="You are a helpful AI assistant."))
