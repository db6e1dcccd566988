"""GLM of Zhipu: GLM-4.7 and GLM-OCR, which share how tools and calls are written."""

from __future__ import annotations

from ollamapy.prompt.go_values import to_json, trim
from ollamapy.prompt.renderers.conversation import Call, Think
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_HEAD = "[gMASK]<sop>"
_TOOLS = (
    "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_CALL_FORM = (
    "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
    "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>"
    "<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"
)


def _tools(tools: Tools) -> str:
    offered = "".join(f"{to_json(tool.plain, spaces=True)}\n" for tool in tools)
    return _TOOLS + offered + _CALL_FORM if tools else ""


def _call(call: Call) -> str:
    written = f"<tool_call>{call.name}"
    for name, value in call.arguments.items():
        text = value if isinstance(value, str) else to_json(value)
        written += f"<arg_key>{name}</arg_key><arg_value>{text}</arg_value>"
    return written + "</tool_call>"


def _render_47(turns: Turns, tools: Tools, think: Think) -> str:
    prompt = _HEAD + _tools(tools)
    for i, turn in enumerate(turns):
        if turn.role in ("user", "system"):
            prompt += f"<|{turn.role}|>{turn.content}"
        elif turn.role == "assistant":
            thoughts = f"<think>{turn.thinking}</think>" if turn.thinking else "</think>"
            prompt += f"<|assistant|>{thoughts}{turn.content}{''.join(map(_call, turn.calls))}"
        elif turn.role == "tool":
            prompt += "<|observation|>" if i == 0 or turns[i - 1].role != "tool" else ""
            prompt += f"<tool_response>{turn.content}</tool_response>"
    return prompt + "<|assistant|>" + ("<think>" if think is None or think else "</think>")


def _render_ocr(turns: Turns, tools: Tools, think: Think) -> str:
    prompt = _HEAD + _tools(tools)
    images = 0
    for i, turn in enumerate(turns):
        if turn.role in ("user", "tool"):  # only their images are numbered
            content = with_images(turn, images)
            images += turn.images
        if turn.role == "user":
            prompt += f"<|user|>\n{content}"
            if think is False and not turn.content.endswith("/nothink"):
                prompt += "/nothink"
        elif turn.role == "assistant":
            prompt += f"<|assistant|>\n<think>{trim(turn.thinking)}</think>"
            prompt += f"\n{trim(turn.content)}" if turn.content else ""
            prompt += "".join(f"\n{_call(call)}" for call in turn.calls) + "\n"
        elif turn.role == "tool":
            prompt += "<|observation|>" if i == 0 or turns[i - 1].role != "tool" else ""
            prompt += f"\n<tool_response>\n{content}\n</tool_response>\n"
        elif turn.role == "system":
            prompt += f"<|system|>\n{turn.content}\n"
    return prompt + "<|assistant|>\n" + ("<think></think>\n" if think is False else "")


register("glm-4.7", _render_47)
register("glm-ocr", _render_ocr)
