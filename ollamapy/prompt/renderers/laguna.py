"""Laguna of Poolside, in its two layouts: `laguna` on lines of their own, `poolside-v1` without."""

from __future__ import annotations

from typing import Any

from ollamapy.prompt.go_values import SPACE, to_json, trim
from ollamapy.prompt.renderers.conversation import Think, Turn
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "〈|EOS|〉"
_IDENTITY = (
    "You are a helpful, conversationally-fluent assistant made by Poolside. You are here to be helpful to users "
    "through natural language conversations."
)
_CALL_FORM = (
    "For each function call, return an unescaped XML-like object with function name and arguments within "
    "'<tool_call>' and '</tool_call>' tags, like here:\n"
)
_EXAMPLE = (
    "<tool_call>function-name\n<arg_key>argument-key</arg_key>\n<arg_value>value-of-argument-key</arg_value>\n"
    "</tool_call>"
)


def _system(turns: Turns) -> tuple[str, Turns]:
    """The system text, which a leading message may replace, and the other turns."""
    if turns and turns[0].role == "system":
        return turns[0].content.rstrip(SPACE), turns[1:]
    return _IDENTITY, turns


def _tools(tools: Tools) -> str:
    offered = "".join(f"{to_json(tool.plain, spaces=True)}\n" for tool in tools)
    return (
        "### Tools\n\nYou may call functions to assist with the user query.\n"
        f"All available function signatures are listed below:\n<available_tools>\n{offered}</available_tools>"
    )


def _calls(turn: Turn, line: str, end: str) -> str:
    written = ""
    for call in turn.calls:
        written += f"<tool_call>{call.name}{line}"
        for name, value in call.arguments.items():
            written += f"<arg_key>{name}</arg_key>{line}<arg_value>{_argument(value)}</arg_value>{line}"
        written += f"</tool_call>{end}"
    return written


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, spaces=True)


def _split(turn: Turn) -> tuple[str, str]:
    """Content and thoughts of a turn, which may have them in tags."""
    parts = turn.content.split("</think>")
    if len(parts) == 1:
        return turn.content, turn.thinking
    thoughts = turn.thinking
    if not thoughts:
        thoughts = parts[0].rstrip("\n").rpartition("<think>")[2].lstrip("\n")
    return parts[-1].lstrip("\n"), thoughts


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    prompt = _BOS
    prefilled = bool(turns) and turns[-1].role == "assistant"
    system, turns = _system(turns)
    if system or tools:
        prompt += "<system>\n" + (f"\n{system}" if system else "")
        if tools:
            prompt += f"\n\n{_tools(tools)}\n\n"
            if think:
                prompt += "Wrap your thinking in '<think>', '</think>' tags, followed by a function call. "
            prompt += _CALL_FORM + ("<think> your thoughts here </think>\n" if think else "") + _EXAMPLE
        prompt += "\n</system>\n"
    for i, turn in enumerate(turns):
        if turn.role == "assistant":
            content, thoughts = map(trim, _split(turn))
            prompt += "<assistant>\n" + (f"<think>\n{thoughts}\n</think>\n" if thoughts else "</think>\n")
            prompt += (f"{content}\n" if content else "") + _calls(turn, "\n", "\n")
            if i + 1 < len(turns) or not (content or thoughts or turn.calls):
                prompt += "</assistant>\n"
        elif turn.role in ("user", "tool", "system"):
            tag = "tool_response" if turn.role == "tool" else turn.role
            prompt += f"<{tag}>\n{turn.content}\n</{tag}>\n"
    if prefilled:
        return prompt
    return prompt + "<assistant>\n" + ("<think>" if think else "</think>")


def _render_v1(turns: Turns, tools: Tools, think: Think) -> str:
    prompt = _BOS
    system, turns = _system(turns)
    if system or tools or think:
        blank = "\n\n" if system and tools else ""
        prompt += f"<system>{system}{blank}{_tools(tools) if tools else ''}</system>\n"
    for turn in turns:
        if turn.role == "assistant":
            thoughts = f"<think>{turn.thinking}</think>" if think else "</think>"
            prompt += f"<assistant>{thoughts}{turn.content}{_calls(turn, '', '')}</assistant>\n"
        elif turn.role in ("user", "tool", "system"):
            tag = "tool_response" if turn.role == "tool" else turn.role
            prompt += f"<{tag}>{turn.content}</{tag}>\n"
    return prompt + "<assistant>" + ("<think>" if think else "</think>")


register("laguna", _render, _BOS)
register("poolside-v1", _render_v1, _BOS)
