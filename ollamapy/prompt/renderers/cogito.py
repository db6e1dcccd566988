"""Cogito of Deep Cogito: DeepSeek's tokens around a system text that turns thinking on."""

from __future__ import annotations

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Call, Think
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "<｜begin▁of▁sentence｜>"
_EOS = "<｜end▁of▁sentence｜>"
_IDENTITY = (
    "You are Cogito, an AI assistant created by Deep Cogito, which is an AI research lab based in San "
    "Francisco."
)


def _system(text: str, tools: Tools, thinks: bool) -> str:
    written = _IDENTITY
    if thinks:
        written = f"Enable deep thinking subroutine.\n\n{written}"
    if text:
        written += f"\n\n{text}"
        written += "\n\n" if thinks else ""
    if tools:
        written += "\nYou have the following functions available:\n"
    return written + "".join(f"```json\n{to_json(tool.plain, indent=4)}\n```\n" for tool in tools)


def _calls(calls: tuple[Call, ...]) -> str:
    written = [
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call.name}\n```json\n{to_json(call.arguments)}\n```"
        "<｜tool▁call▁end｜>"
        for call in calls
    ]
    return "<｜tool▁calls▁begin｜>" + "\n".join(written) + "<｜tool▁calls▁end｜>"


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    system = ""
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    prompt = _BOS + _system(system, tools, bool(think))
    answering = False  # whether the last turn already opened the assistant's
    for i, turn in enumerate(turns):
        if turn.role == "user":
            prompt += f"<｜User｜>{turn.content}<｜Assistant｜>"
        elif turn.role == "assistant":
            prompt += turn.content + (_calls(turn.calls) if turn.calls else "") + _EOS
        elif turn.role == "tool":
            first = i == 0 or turns[i - 1].role != "tool"
            last = i + 1 == len(turns) or turns[i + 1].role != "tool"
            prompt += "<｜tool▁outputs▁begin｜>" if first else ""
            prompt += f"<｜tool▁output▁begin｜>{turn.content}<｜tool▁output▁end｜>"
            prompt += "<｜tool▁outputs▁end｜>" if last else "\n"
        else:
            continue
        answering = turn.role == "user"
    if not answering:
        prompt += "<｜Assistant｜>"
    return prompt + ("<think>\n" if think else "")


register("cogito", _render, _BOS)
