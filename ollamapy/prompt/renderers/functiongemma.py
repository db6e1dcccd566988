"""FunctionGemma of Google: small models that do nothing but call functions."""

from __future__ import annotations

from ollamapy.prompt.go_values import trim
from ollamapy.prompt.renderers.conversation import Call, Property, Think, Tool
from ollamapy.prompt.renderers.gemma_values import Notation
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_BOS = "<bos>"
_VALUES = Notation("<escape>", null="<nil>")
_string = _VALUES.string
_OFFER = "You can do function calling with the following functions:"


def _property(name: str, schema: Property) -> str:
    kind = f",type:{_string(schema.type[0].upper())}" if schema.type else ""
    return f"{name}:{{description:{_string(schema.description)}{kind}}}"


def _tool(tool: Tool) -> str:
    parameters = tool.parameters
    fields = []
    if properties := parameters.properties:
        listed = ",".join(_property(name, properties[name]) for name in sorted(properties))
        fields.append(f"properties:{{{listed}}}")
    if parameters.required:
        fields.append(f"required:{_VALUES.strings(parameters.required)}")
    if parameters.type:
        fields.append(f"type:{_string(parameters.type.upper())}")
    schema = ""
    if parameters.properties is not None or parameters.type:
        schema = f",parameters:{{{','.join(fields)}}}"
    return (
        f"<start_function_declaration>declaration:{tool.name}{{description:{_string(tool.description)}{schema}}}"
        "<end_function_declaration>"
    )


def _system(text: str, tools: Tools) -> str:
    if not text and not tools:
        return ""
    written = "<start_of_turn>developer\n" + trim(text)
    if tools:
        written += "\n" if text else ""
        written += "" if trim(text) == _OFFER else _OFFER
        written += "".join(_tool(tool) for tool in tools)
    return written + "<end_of_turn>\n"


def _call(call: Call) -> str:
    return f"<start_function_call>call:{call.name}{{{_VALUES.fields(call.arguments)}}}<end_function_call>"


def _caller(turns: Turns, i: int) -> str:
    """The function whose result turns[i] is: results stand in the order of the calls before them."""
    for j in range(i - 1, -1, -1):
        if turns[j].role == "assistant" and turns[j].calls:
            place = sum(turn.role == "tool" for turn in turns[j + 1 : i])
            return turns[j].calls[place].name if place < len(turns[j].calls) else ""
    return ""


def _render(turns: Turns, tools: Tools, think: Think) -> str:
    system = ""
    if turns and turns[0].role in ("system", "developer"):
        system, turns = turns[0].content, turns[1:]
    prompt = _BOS + _system(system, tools)
    before = ""  # "call" or "response" when the model's turn is still open after one
    for i, turn in enumerate(turns):
        content = trim(turn.content)
        if turn.role == "assistant":
            prompt += "" if before == "response" else "<start_of_turn>model\n"
            prompt += content + "".join(map(_call, turn.calls))
            waits = turn.calls and i + 1 < len(turns) and turns[i + 1].role == "tool"
            prompt += "<start_function_response>" if waits else "<end_of_turn>\n"
            before = "call" if waits else ""
        elif turn.role == "user":
            prompt += "" if before == "response" else "<start_of_turn>user\n"
            prompt += f"{content}<end_of_turn>\n"
            before = ""
        elif turn.role == "tool":
            prompt += "" if before == "call" else "<start_function_response>"
            prompt += f"response:{_caller(turns, i)}{{{_string(turn.content)}}}<end_function_response>"
            before = "response"
        else:
            prompt += f"<start_of_turn>{turn.role}\n{content}<end_of_turn>\n"
    return prompt + ("" if before == "response" else "<start_of_turn>model\n")


register("functiongemma", _render, _BOS)
