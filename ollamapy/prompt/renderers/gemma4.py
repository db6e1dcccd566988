"""Gemma 4 of Google. The larger models are shown an empty thought when they should not think."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ollamapy.prompt.go_values import trim
from ollamapy.prompt.renderers.conversation import Call, Think, Turn
from ollamapy.prompt.renderers.gemma4_tools import VALUES, declaration
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.registry import Tools, Turns, register, register_choice

_BOS = "<bos>"
_SMALL_NAMES = ("e2b", "e4b")
_LARGE_NAMES = ("12b", "26b", "31b")
_LARGE_FROM = 12e9  # parameters
_UNITS = {"B": 1e9, "M": 1e6, "K": 1e3}


def _without_thoughts(text: str) -> str:
    kept = ""
    while True:
        before, opening, after = text.partition("<|channel>")
        kept += before
        _, closing, text = after.partition("<channel|>")
        if not opening or not closing:
            return trim(kept)


def _call(call: Call) -> str:
    return f"<|tool_call>call:{call.name}{{{VALUES.fields(call.arguments)}}}<tool_call|>"


def _response(turn: Turn, calls: tuple[Call, ...], images: int) -> str:
    """A tool's result. The call it answers is known by id, else its own word for the tool counts."""
    name = turn.tool_name or "unknown"
    if turn.tool_call_id:
        name = next((call.name for call in calls if call.id == turn.tool_call_id), name)
    return (
        f"<|tool_response>response:{name}{{value:{VALUES.value(with_images(turn, images))}}}<tool_response|>"
    )


def _responses(turns: Turns, i: int) -> list[Turn]:
    """The results that follow turns[i]."""
    end = i + 1
    while end < len(turns) and turns[end].role == "tool":
        end += 1
    return list(turns[i + 1 : end])


def _system(text: str | None, tools: Tools, think: Think) -> str:
    if text is None and not tools and not think:
        return ""
    offered = "".join(declaration(tool) for tool in tools)
    thinks = "<|think|>\n" if think else ""
    return f"<|turn>system\n{thinks}{trim(text or '')}{offered}<turn|>\n"


def _render(turns: Turns, tools: Tools, think: Think, *, large: bool) -> str:
    system = None
    if turns and turns[0].role in ("system", "developer"):
        system, turns = turns[0].content, turns[1:]
    prompt = _BOS + _system(system, tools, think)
    question = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    images = 0
    spoken = [i for i, turn in enumerate(turns) if turn.role != "tool"]  # results belong to the calls before
    state = ""  # "call" or "response": what the last of them ends with, apart from its text
    for place, i in enumerate(spoken):
        turn = turns[i]
        before = turns[spoken[place - 1]].role if place else ""
        after = turns[spoken[place + 1]].role if place + 1 < len(spoken) else ""
        role = "model" if turn.role == "assistant" else turn.role
        if role != "model" or before != "assistant":
            prompt += f"<|turn>{role}\n"
        if turn.role == "assistant" and turn.thinking and i > question:
            prompt += f"<|channel>thought\n{turn.thinking}\n<channel|>"
        prompt += "".join(map(_call, turn.calls))
        responses = _responses(turns, i) if turn.calls else []
        for response in responses:
            prompt += _response(response, turn.calls, images)
            images += response.images
        content = _without_thoughts(turn.content) if role == "model" else trim(turn.content)
        prompt += with_images(replace(turn, content=content), images)
        images += turn.images
        state = "response" if responses else "call" if turn.calls else ""
        if state == "call":
            prompt += "<|tool_response>"
            continue
        goes_on = role == "model" and after == "assistant"
        waits = bool(responses) and not (trim(content) or turn.images) and not after
        prompt += "" if goes_on or waits else "<turn|>\n"
    if not state:
        prompt += "<|turn>model\n" + ("<|channel>thought\n<channel|>" if large and not think else "")
    elif state == "response" and think:
        prompt += "<|channel>thought\n"
    return prompt


def _choose(models: Sequence[str], size: str) -> str:
    """The form for a model: by its names, else by its size, else the small one."""
    for name in models:
        if any(part in name.lower() for part in _SMALL_NAMES):
            return "gemma4-small"
        if any(part in name.lower() for part in _LARGE_NAMES):
            return "gemma4-large"
    try:
        large = float(size[:-1]) * _UNITS[size[-1:].upper()] >= _LARGE_FROM
    except (KeyError, ValueError):
        large = False
    return "gemma4-large" if large else "gemma4-small"


register("gemma4-small", partial(_render, large=False), _BOS)
register("gemma4-large", partial(_render, large=True), _BOS)
register_choice("gemma4", _choose)
