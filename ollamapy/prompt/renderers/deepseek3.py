"""DeepSeek-V3.1."""

from __future__ import annotations

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.renderers.conversation import Call, Think
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "<｜begin▁of▁sentence｜>"
_EOS = "<｜end▁of▁sentence｜>"
_CALL_FORM = (
    "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>"
    "{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\n"
    "Where:\n\n"
    "- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces\n"
)


def _tools(tools: Tools) -> str:
    if not tools:
        return ""
    written = "\n\n## Tools\nYou have access to the following tools:\n"
    for tool in tools:
        parameters = to_json(tool.parameters.plain)
        written += f"\n### {tool.name}\nDescription: {tool.description}\n\nParameters: {parameters}\n"
    return written + _CALL_FORM


def _calls(calls: tuple[Call, ...]) -> str:
    written = [
        f"<｜tool▁call▁begin｜>{call.name}<｜tool▁sep｜>{to_json(call.arguments)}<｜tool▁call▁end｜>"
        for call in calls
    ]
    return "<｜tool▁calls▁begin｜>" + "".join(written) + "<｜tool▁calls▁end｜>"


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    prompt = _BOS + "\n\n".join(turn.content for turn in turns if turn.role == "system") + _tools(tools)
    question = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    asked = False  # whether the turn before is a user's: the answer needs a head
    told = False  # whether it is a tool's: the answer goes on
    for i, turn in enumerate(turns):
        if turn.role == "user":
            prompt += f"<｜User｜>{turn.content}"
            asked, told = True, False
        elif turn.role == "assistant":
            if asked:
                thought = think and turn.thinking and i > question and not turn.calls
                prompt += "<｜Assistant｜>" + ("<think>" if thought else "</think>")
            content = turn.content
            if turn.calls:
                content += _calls(turn.calls)
            elif not told and "</think>" in content:
                content = content.partition("</think>")[2]
            prompt += content + _EOS
            asked = told = False
        elif turn.role == "tool":
            prompt += f"<｜tool▁output▁begin｜>{turn.content}<｜tool▁output▁end｜>"
            asked, told = False, True
    if asked:
        prompt += "<｜Assistant｜>" + ("<think>" if think else "</think>")
    return prompt


register("deepseek3.1", _render, _BOS)
