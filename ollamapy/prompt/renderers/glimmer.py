"""Glimmer: turns addressed to the user, to itself or to a tool."""

from __future__ import annotations

import datetime
from typing import Any

from ollamapy.prompt.go_values import to_json
from ollamapy.prompt.gotemplate.printing import show
from ollamapy.prompt.renderers.conversation import Call, Think, Turn
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "<|begin_of_text|>"
_IDENTITY = "You are a helpful AI assistant.\nKnowledge cutoff: 2026-01-04.\nCurrent date: {today}."
_TOOLS = """In this environment you have access to a set of tools you can use to answer the user's question.

You can invoke a function by writing a "<atem:function_calls>" block like the following:
<atem:function_calls>
<atem:invoke name="$FUNCTION_NAME">
<atem:parameter name="$PARAMETER_NAME">$PARAMETER_VALUE</atem:parameter>
...
</atem:invoke>
</atem:function_calls>

String and scalar parameters should be specified as is, while lists and objects should use JSON format. Note that \
spaces for string values are not stripped. The output is not expected to be valid XML and is parsed with regular \
expressions.
Here are the functions available in JSONSchema format:
// Tool metadata
"""
_EXAMPLE = """

Here's an example of how to call a function in the tool set:
(If the tool namespace is not specified, invoke the function directly as `example_function_name` rather than \
`example_tool_name.example_function_name`)

to=example_tool_name.example_function_name

<atem:function_calls>
<atem:invoke name="example_tool_name.example_function_name">
<atem:parameter name="example_parameter_1">value_1</atem:parameter>
<atem:parameter name="example_parameter_2">This is the value for the second parameter
that can span
"multiple" lines
</atem:parameter>
</atem:invoke>
</atem:function_calls>"""
_STRENGTHS = {
    f"{first} {second}": f"{first} {other}"
    for first, second, other in (
        ("Reasoning", "effort", "strength"),
        ("Reasoning", "Effort", "Strength"),
        ("reasoning", "effort", "strength"),
        ("REASONING", "EFFORT", "STRENGTH"),
    )
}


def _json(value: Any) -> str:
    return to_json(value, html=False, spaces=True)


def _namespaces(tools: Tools) -> list[str]:
    """What stands before the first dot of the tools' names."""
    return list(dict.fromkeys(tool.name.partition(".")[0] for tool in tools))


def _tools(tools: Tools) -> str:
    metadata = "".join(f"{_json({'name': name, 'description': ''})}\n" for name in _namespaces(tools))
    schemas = "".join(
        "\n"
        + _json({"name": tool.name, "description": tool.description, "parameters": tool.parameters.plain})
        for tool in tools
    )
    return f"{_TOOLS}{metadata}// Function schemas{schemas}{_EXAMPLE}"


def _system(text: str, tools: Tools, strength: str) -> str:
    """strength "": the text says it."""
    written = f"<|start|>system<|message|>{text}"
    if strength:
        written += f"\n\nReasoning strength: {strength}."
    if tools:
        written += f"\n\n{_tools(tools)}"
    recipients = ['"self"', *(f'"{name}.*"' for name in _namespaces(tools)), '"user"']
    return f"{written}\n\n# Valid recipients: {', '.join(recipients)}.<|eot|>"


def _own_system(text: str, tools: Tools, strength: str) -> str:
    """A system message of the conversation, in the model's own words for effort."""
    for effort, own in _STRENGTHS.items():
        text = text.replace(effort, own)
    return _system(text, tools, "" if "reasoning strength" in text.lower() else strength)


def _call(call: Call) -> str:
    written = f'<|start|>assistant to={call.name}<|message|><atem:function_calls>\n<atem:invoke name="{call.name}">\n'
    for name, value in call.arguments.items():
        bare = isinstance(value, (str, bool, float))
        text = show(value) if bare else _json(value)
        written += f'<atem:parameter name="{name}">{text}</atem:parameter>\n'
    return written + "</atem:invoke>\n</atem:function_calls>"


def _tool_name(turn: Turn, turns: Turns) -> str:
    """The tool whose result a turn is: by name, else by the id of the last call that has it."""
    if turn.tool_name or not turn.tool_call_id:
        return turn.tool_name
    called = [call.name for other in turns for call in other.calls if call.id == turn.tool_call_id]
    return called[-1] if called else turn.tool_call_id


def _assistant(turn: Turn, content: str, end: str) -> str:
    """end: what closes its last call."""
    written = f"<|start|>assistant to=self<|message|>{turn.thinking}<|eom|>" if turn.thinking else ""
    if turn.calls:
        return written + "<|eom|>".join(map(_call, turn.calls)) + end
    if content or not turn.thinking:
        written += f"<|start|>assistant to=user<|message|>{content}<|eot|>"
    return written


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    strength = "none" if think is False else think if isinstance(think, str) else "high"
    prompt = _BOS
    if all(turn.role != "system" for turn in turns):
        prompt += _system(_IDENTITY.format(today=datetime.date.today().isoformat()), tools, strength)
    images = 0
    for i, turn in enumerate(turns):
        content = with_images(turn, images)
        images += turn.images
        if turn.role == "system":
            prompt += _own_system(content, tools, strength)
        elif turn.role == "user":
            prompt += f"<|start|>user<|message|>{content}<|eot|>"
        elif turn.role == "tool":
            name = _tool_name(turn, turns)
            prompt += f'<|start|>tool {name}<|message|><tool_output name="{name}">\n{content}\n</tool_output><|eot|>'
        elif turn.role == "assistant":
            more = i + 1 < len(turns) and turns[i + 1].role == turn.role
            prompt += _assistant(turn, content, "<|eom|>" if more else "<|eot|>")
    return f"{prompt}<|start|>assistant"


register("glimmer", _render, _BOS)
