"""Nemotron 3 and 3.5 Nano of NVIDIA: ChatML with XML-like calls, and values as Python prints them."""

from __future__ import annotations

from functools import partial
from typing import Any

from ollamapy.prompt.go_values import to_json, trim
from ollamapy.prompt.gotemplate.formatting import quote
from ollamapy.prompt.gotemplate.printing import show
from ollamapy.prompt.renderers.conversation import Property, Think, Tool, Turn, plain_properties
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.qwen3_coder import CALL_FORM
from ollamapy.prompt.renderers.registry import Tools, Turns, register


def _python_json(value: Any) -> str:
    """What Python's json.dumps() would write, with Go's string literals."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return "[" + ", ".join(_python_json(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quote(key)}: {_python_json(item)}" for key, item in value.items()) + "}"
    return to_json(value)


def _value(value: Any) -> str:
    """Lists and objects as JSON, the rest as Python's str()."""
    if isinstance(value, (dict, list)):
        return _python_json(value)
    if value is None or isinstance(value, bool):
        return str(value)
    return show(value)


def _type(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else "[" + ", ".join(f"'{name}'" for name in names) + "]"


def _parameter(name: str, schema: Property) -> str:
    written = f"\n<parameter>\n<name>{name}</name>"
    if schema.type:
        written += f"\n<type>{_type(schema.type)}</type>"
    if schema.description:
        written += f"\n<description>{trim(schema.description)}</description>"
    if schema.enum:
        written += f"\n<enum>{_python_json(list(schema.enum))}</enum>"
    if schema.any_of:
        written += f"\n<anyOf>{_python_json([branch.plain for branch in schema.any_of])}</anyOf>"
    if schema.items is not None:
        written += f"\n<items>{_python_json(schema.items)}</items>"
    if schema.properties is not None:
        written += f"\n<properties>{_python_json(plain_properties(schema.properties))}</properties>"
    if schema.required:
        written += f"\n<required>{_python_json(list(schema.required))}</required>"
    return written + "\n</parameter>"


def _tool(tool: Tool) -> str:
    written = f"\n<function>\n<name>{tool.name}</name>"
    if tool.description:
        written += f"\n<description>{trim(tool.description)}</description>"
    parameters = tool.parameters
    written += "\n<parameters>"
    written += "".join(_parameter(name, schema) for name, schema in (parameters.properties or {}).items())
    if parameters.defs is not None:
        written += f"\n<$defs>{_value(parameters.defs)}</$defs>"
    if parameters.items is not None:
        written += f"\n<items>{_value(parameters.items)}</items>"
    if parameters.required:
        written += f"\n<required>{_python_json(list(parameters.required))}</required>"
    return written + "\n</parameters>\n</function>"


def _system(text: str, tools: Tools) -> str:
    if tools:
        offered = "".join(_tool(tool) for tool in tools)
        text += "\n\n" if text else ""
        text += (
            f"# Tools\n\nYou have access to the following functions:\n\n<tools>{offered}\n</tools>{CALL_FORM}"
        )
    return f"<|im_start|>system\n{text}<|im_end|>\n"


def _without_toggles(text: str) -> str:
    """Nemotron 3 reads `/think` and `/no_think` in messages and does not show them to the model."""
    kept = [part.replace("/think", "").replace("/no_think", "") for part in text.split("</think>")]
    return "</think>".join(kept)


def _toggled(turns: Turns, think: Think) -> bool:
    """Whether to think, as the last toggle says."""
    thinks = think is None or bool(think)
    for turn in turns:
        if turn.role in ("user", "system"):
            if "/think" in turn.content.replace("</think>", ""):
                thinks = True
            elif "/no_think" in turn.content:
                thinks = False
    return thinks


def _assistant(turn: Turn, v35: bool, forgets: bool) -> str:
    """forgets: its thoughts lie before the last question."""
    content = turn.content
    if turn.thinking:
        line = "" if v35 else "\n"
        content = f"<think>\n{turn.thinking}{line}</think>{line}{content}"
    elif "<think>" not in content and "</think>" not in content:
        content = f"<think></think>{content}"
    if turn.calls:
        return f"<|im_start|>assistant\n{_before_calls(content, forgets)}{_calls(turn)}<|im_end|>\n"
    if forgets and "<think>" in content and "</think>" in content:
        content = f"<think></think>{content.rpartition('</think>')[2]}"
    return f"<|im_start|>assistant\n{trim(content)}<|im_end|>\n"


def _before_calls(content: str, forgets: bool) -> str:
    if not trim(content):
        return "<think></think>"
    if forgets:
        _, thought, answer = content.rpartition("</think>")
        answer = answer if thought else content.partition("<think>")[0]
        content = f"<think></think>{trim(answer)}"
    return f"{trim(content)}\n"


def _calls(turn: Turn) -> str:
    written = ""
    for call in turn.calls:
        written += f"<tool_call>\n<function={call.name}>\n"
        for name, value in call.arguments.items():
            written += f"<parameter={name}>\n{_value(value)}\n</parameter>\n"
        written += "</function>\n</tool_call>\n"
    return written


def _render(turns: Turns, tools: Tools, think: Think, *, v35: bool) -> str:
    thinks = think is None or bool(think)
    if not v35:
        thinks = _toggled(turns, think)
    system = ""
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    prompt = _system(system if v35 else _without_toggles(system), tools)
    question = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    images = 0
    for i, turn in enumerate(turns):
        if turn.role in ("user", "system", "tool"):  # only their images are numbered
            content = with_images(turn, images)
            images += turn.images
        if turn.role == "assistant":
            prompt += _assistant(turn, v35, i < question)
        elif turn.role in ("user", "system"):
            if not v35:
                content = trim(_without_toggles(content))
            elif i == question and think == "medium":
                content += "\n\n{reasoning effort: efficient}"
            prompt += f"<|im_start|>{turn.role}\n{content}<|im_end|>\n"
        elif turn.role == "tool":  # neighbours share one turn of the user, which the very first does not open
            if i and turns[i - 1].role != "tool":
                prompt += "<|im_start|>user\n"
            prompt += f"<tool_response>\n{content}\n</tool_response>\n"
            if i + 1 == len(turns) or turns[i + 1].role != "tool":
                prompt += "<|im_end|>\n"
        else:
            prompt += f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n"
    return prompt + "<|im_start|>assistant\n" + ("<think>\n" if thinks else "<think></think>")


register("nemotron-3-nano", partial(_render, v35=False))
register("nemotron-3.5-nano", partial(_render, v35=True))
