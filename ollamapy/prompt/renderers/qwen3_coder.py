"""Qwen3-Coder: ChatML, with tools and calls as XML-like text."""

from __future__ import annotations

from typing import Any

from ollamapy.prompt.go_values import generic, to_json
from ollamapy.prompt.gotemplate.printing import show
from ollamapy.prompt.renderers.conversation import Call, Property, Think, Tool
from ollamapy.prompt.renderers.registry import Tools, Turns, register

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
_IDENTITY = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."

CALL_FORM = """

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested \
within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but \
NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do \
not tell the user about function calls
</IMPORTANT>"""
"""what a family of this call format is told about it, after its tools"""


def _more(schema: dict[str, Any], shown: tuple[str, ...]) -> str:
    """The keys of a schema that have no form of their own, each as an element."""
    written = ""
    for key, value in schema.items():
        if key not in shown and value is not None:
            text = to_json(generic(value)) if isinstance(value, (dict, list)) else show(value)
            written += f"\n<{key}>{text}</{key}>"
    return written


def _parameter(name: str, schema: Property) -> str:
    written = f"\n<parameter>\n<name>{name}</name>"
    if schema.type:
        kind = schema.type[0] if len(schema.type) == 1 else to_json(list(schema.type))
        written += f"\n<type>{kind}</type>"
    if schema.description:
        written += f"\n<description>{schema.description}</description>"
    return written + _more(schema.plain, ("type", "description")) + "\n</parameter>"


def _tool(tool: Tool) -> str:
    written = f"\n<function>\n<name>{tool.name}</name>"
    if tool.description:
        written += f"\n<description>{tool.description}</description>"
    written += "\n<parameters>"
    for name, schema in (tool.parameters.properties or {}).items():
        written += _parameter(name, schema)
    return written + _more(tool.parameters.plain, ("type", "properties")) + "\n</parameters>\n</function>"


def argument(value: Any) -> str:
    """An argument's value between its tags: text as it is, lists and objects as JSON."""
    if value is None:
        return "null"
    return to_json(value) if isinstance(value, (dict, list)) else show(value)


def _call(call: Call) -> str:
    written = f"\n<tool_call>\n<function={call.name}>"
    for name, value in call.arguments.items():
        written += f"\n<parameter={name}>\n{argument(value)}\n</parameter>"
    return written + "\n</function>\n</tool_call>"


def _system(text: str, tools: Tools) -> str:
    if not text and not tools:
        return ""
    written = f"{IM_START}system\n{text or _IDENTITY}"
    if tools:
        written += "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
        written += "".join(_tool(tool) for tool in tools) + "\n</tools>" + CALL_FORM
    return f"{written}{IM_END}\n"


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    system = next((turn.content for turn in turns if turn.role == "system" and turn.content), "")
    turns = [turn for turn in turns if turn.role != "system"]
    prompt = _system(system, tools)
    for i, turn in enumerate(turns):
        last = i + 1 == len(turns)
        if turn.role == "tool":  # neighbours share one turn of the user
            if i == 0 or turns[i - 1].role != "tool":
                prompt += f"{IM_START}user"
            prompt += f"\n<tool_response>\n{turn.content}\n</tool_response>"
            if last or turns[i + 1].role != "tool":
                prompt += f"{IM_END}\n"
        elif turn.role == "assistant" and turn.calls:
            text = f"{turn.content}\n" if turn.content else ""
            prompt += f"{IM_START}assistant\n{text}{''.join(map(_call, turn.calls))}{IM_END}\n"
        else:
            prompt += f"{IM_START}{turn.role}\n{turn.content}"
            if turn.role != "assistant" or not last:
                prompt += f"{IM_END}\n"
        if last and turn.role != "assistant":
            prompt += f"{IM_START}assistant\n"
    return prompt


register("qwen3-coder", _render)
