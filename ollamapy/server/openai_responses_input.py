"""The body of /v1/responses: its items and tools as our messages."""

from __future__ import annotations

from typing import Any

import msgspec

from ollamapy.server import web_search
from ollamapy.server.openai_requests import Reasoning, arguments_of, image_data
from ollamapy.server.requests import Message, ToolCall, ToolCallFunction
from ollamapy.types import RequestError


class ResponsesText(msgspec.Struct, kw_only=True):
    format: dict[str, Any] | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    input: Any = None
    instructions: str = ""
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning: Reasoning | None = None
    text: ResponsesText | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    truncation: str = ""
    include: list[str] = []
    top_logprobs: int = 0
    background: bool = False
    previous_response_id: str = ""
    conversation: Any = None
    prompt: dict[str, Any] | None = None


def input_messages(asked: ResponsesRequest) -> list[Message]:
    """instructions and input as a conversation. Raises RequestError."""
    found = [Message(role="system", content=asked.instructions)] if asked.instructions else []
    if isinstance(asked.input, str):
        return [*found, Message(role="user", content=asked.input)] if asked.input else found
    if asked.input is None:
        return found
    if not isinstance(asked.input, list):
        raise RequestError("input must be a string or array")
    reader = _Items(found)
    for i, item in enumerate(asked.input):
        reader.add(item, f"input[{i}]", asked.input[i + 1] if i + 1 < len(asked.input) else None)
    if reader.thought:
        found.append(Message(role="assistant", thinking=reader.thought))
    return found


class _Items:
    """Input items, of which reasoning, calls and text of one turn become one message."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages
        self._names: dict[str, str] = {}
        self.thought = ""  # waits for the message that it belongs to

    def add(self, item: Any, where: str, following: Any) -> None:
        if not isinstance(item, dict):
            raise RequestError(f"{where}: an item is an object")
        kind = item.get("type") or ("message" if item.get("role") else "")
        if kind == "message":
            self._message(item, where, following)
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            content, images = _content(item.get("output"), f"{where}: output")
            call = _text(item.get("call_id"))
            self._messages.append(
                Message(
                    role="tool",
                    content=content,
                    images=images,
                    tool_call_id=call,
                    tool_name=self._names.get(call, ""),
                )
            )
        elif kind == "reasoning":
            self.thought = _text(item.get("encrypted_content")) or _summary(item.get("summary"))
        elif kind != "web_search_call":  # history: the message behind it has what was found
            if not kind:
                raise RequestError(f"{where}: input item missing required 'type' field")
            raise RequestError(f'{where}: unknown input item type: "{kind}"')

    def _message(self, item: dict[str, Any], where: str, following: Any) -> None:
        content, images = _content(item.get("content"), f"{where}: content")
        message = Message(role=_text(item.get("role")), content=content, images=images)
        if message.role == "assistant":
            message.thinking, self.thought = self.thought, ""
            last = self._messages[-1] if self._messages else None
            answered = following.get("call_id") if isinstance(following, dict) else None
            if last is not None and answered and any(call.id == answered for call in last.tool_calls):
                # text between a call and its output belongs to the call's turn
                last.content = "\n".join(text for text in (last.content, content) if text)
                last.thinking = message.thinking or last.thinking
                return
        self._messages.append(message)

    def _call(self, item: dict[str, Any]) -> None:
        name, call_id = _text(item.get("name")), _text(item.get("call_id"))
        arguments = arguments_of(_text(item.get("arguments")), "failed to parse function call arguments")
        self._names[call_id] = name
        call = ToolCall(
            id=call_id, type="function", function=ToolCallFunction(name=name, arguments=arguments)
        )
        if not self._messages or self._messages[-1].role != "assistant":
            self._messages.append(Message(role="assistant"))
        last = self._messages[-1]
        last.tool_calls.append(call)
        if self.thought:
            last.thinking, self.thought = self.thought, ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _summary(value: Any) -> str:
    parts = value if isinstance(value, list) else []
    return "".join(_text(part.get("text")) for part in parts if isinstance(part, dict))


def _content(value: Any, where: str) -> tuple[str, list[str]]:
    """Text and images of a content: a text or a list of parts. Raises RequestError."""
    if value is None or isinstance(value, str):
        return value or "", []
    if not isinstance(value, list):
        raise RequestError(f"{where} must be a string or array")
    texts, images = [], []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text"):
            texts.append(_text(part.get("text")))
        elif kind == "refusal":
            texts.append(_text(part.get("refusal")))
        elif kind == "input_image":
            url = part.get("image_url")
            if not isinstance(url, str):
                raise RequestError("image inputs need an image_url with base64 encoded data")
            images.append(image_data(url))
        elif kind == "input_file":
            raise RequestError("file inputs are not currently supported")
        else:
            raise RequestError(f"{where}[{i}]: unknown content type: {kind}")
    return "".join(texts), images


def functions_of(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions among the tools, those of namespaces under their full names. Raises RequestError."""
    searches = any(web_search.is_search(tool) for tool in tools)
    found: list[dict[str, Any]] = []
    for tool in tools:
        kind = tool.get("type")
        if web_search.is_search(tool):
            described = web_search.function("Search the web for current information.", "The search query.")
            found += [] if described in found else [described]
            continue
        if searches and tool.get("name") == web_search.NAME:
            continue  # a call of it would be ambiguous
        if kind == "namespace":
            members = [] if tool.get("tools") is None else tool["tools"]
            if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
                raise RequestError("a namespace needs a list of tools")
            prefix = f"{tool['name']}." if isinstance(tool.get("name"), str) and tool["name"] else ""
            for inner in functions_of(members):
                function = inner["function"]
                if not function["name"].startswith(prefix):
                    function["name"] = prefix + function["name"]
                found.append(inner)
            continue
        if kind != "function":
            raise RequestError(f"tools of type {kind!r} are not supported: only functions can be called here")
        function = {
            key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key)
        }
        if not isinstance(function.get("name"), str):
            raise RequestError("a function tool needs a name")
        found.append({"type": "function", "function": function})
    return found
