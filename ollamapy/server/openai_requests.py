"""The bodies of OpenAI's chat, completions and embeddings, and how they become our own requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from ollamapy.prompt.parsers.json_values import json_value
from ollamapy.server.checks import is_base64
from ollamapy.server.requests import Message, ToolCall, ToolCallFunction
from ollamapy.types import RequestError

_IMAGE_KINDS = ("jpeg", "jpg", "png", "webp")
MOST_CHOICES = 64
_BIAS_LIMIT = 100.0
_TOKEN_ID = re.compile("[0-9]{1,10}")
_EFFORTS = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: bool = False


class Reasoning(msgspec.Struct, kw_only=True):
    effort: str = ""
    summary: str = ""


class CallFunction(msgspec.Struct, kw_only=True):
    name: str = ""
    arguments: str = ""


class ChatToolCall(msgspec.Struct, kw_only=True):
    id: str = ""
    function: CallFunction = msgspec.field(default_factory=CallFunction)


class ChatMessage(msgspec.Struct, kw_only=True):
    role: str = ""
    content: Any = None
    reasoning: str = ""
    reasoning_content: str = ""
    tool_calls: list[ChatToolCall] | None = None
    name: str = ""
    tool_call_id: str = ""


class ChatCompletionRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    messages: list[ChatMessage] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: Any = None
    temperature: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_p: float | None = None
    response_format: Any = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning | None = None
    reasoning_effort: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: dict[str, float] = {}
    n: int = 1
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class CompletionRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    prompt: Any = None
    suffix: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: Any = None
    temperature: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_p: float | None = None
    logprobs: int | None = None
    logit_bias: dict[str, float] = {}
    echo: bool = False
    n: int = 1
    best_of: int | None = None
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class OpenAIEmbeddingsRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    input: Any = None
    dimensions: int = 0
    encoding_format: str = ""


def go_type(value: Any) -> str:
    """What Go calls the type of a JSON value."""
    if value is None:
        return "<nil>"
    names = {bool: "bool", int: "float64", float: "float64", str: "string", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def stops(value: Any) -> list[str] | None:
    """`stop`: a text or a list of texts; None: the model's own. Raises RequestError."""
    if not isinstance(value, list):
        return [value] if isinstance(value, str) else None
    for item in value:
        if not isinstance(item, str):
            raise RequestError(f"invalid type for 'stop' field: {go_type(item)}")
    return value


def options_of(asked: ChatCompletionRequest | CompletionRequest, max_tokens: int | None) -> dict[str, Any]:
    """The sampling fields as options of the native API, with OpenAI's defaults."""
    options: dict[str, Any] = {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "seed": asked.seed,
        "num_predict": max_tokens,
        "frequency_penalty": asked.frequency_penalty,
        "presence_penalty": asked.presence_penalty,
    }
    if isinstance(asked, CompletionRequest):
        options["stop"] = stops(asked.stop)
    elif isinstance(asked.stop, (str, list)):  # chat takes what of it is text
        listed = [asked.stop] if isinstance(asked.stop, str) else asked.stop
        options["stop"] = [item for item in listed if isinstance(item, str)]
    return options


def biases(value: dict[str, float]) -> dict[int, float]:
    """`logit_bias` by token id. Raises RequestError."""
    found: dict[int, float] = {}
    for key, bias in value.items():
        if not _TOKEN_ID.fullmatch(key) or int(key) >= 1 << 31:
            raise RequestError(f"logit_bias: {key[:40]!r} is not a token id")
        found[int(key)] = max(-_BIAS_LIMIT, min(bias, _BIAS_LIMIT))
    return found


def choices(n: int, name: str = "n") -> int:
    if not 1 <= n <= MOST_CHOICES:
        raise RequestError(f"{name} must be between 1 and {MOST_CHOICES}")
    return n


def effort_think(effort: str) -> Any:
    """`reasoning_effort` as our think: None when not said. Raises RequestError."""
    if effort not in _EFFORTS:
        raise RequestError(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")'
        )
    return _EFFORTS[effort]


def image_data(url: str) -> str:
    """The base64 in a data URL. Raises RequestError."""
    if url.startswith(("http://", "https://")):
        raise RequestError("image URLs are not currently supported, please use base64 encoded data instead")
    prefixes = ("data:;base64,", *(f"data:image/{kind};base64," for kind in _IMAGE_KINDS))
    for prefix in prefixes:
        if url.startswith(prefix):
            data = url.removeprefix(prefix)
            if is_base64(data):
                return data
    raise RequestError("invalid image input")


def audio_data(audio: Any) -> str:
    """The base64 of an `input_audio` part. Raises RequestError."""
    if not isinstance(audio, dict):
        raise RequestError("invalid input_audio format")
    data = audio.get("data")
    if not isinstance(data, str):
        raise RequestError("invalid input_audio format: missing data")
    if not is_base64(data):
        raise RequestError("invalid input_audio base64 data")
    return data


def role_of(role: str) -> str:
    """developer is what OpenAI calls system since its models reason."""
    return "system" if role.lower() == "developer" else role


def _part(role: str, part: Any) -> Message:
    """A part of a message's content as a message of its own."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return Message(role=role, content=part[kind])
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            return Message(role=role, images=[image_data(url)])
    if kind == "input_audio":  # for models that hear; all media go the way of images
        return Message(role=role, images=[audio_data(part.get("input_audio"))])
    raise RequestError("invalid message format")


def _calls(calls: Sequence[ChatToolCall] | None) -> list[ToolCall]:
    found = []
    for call in calls or []:
        function = ToolCallFunction(name=call.function.name, arguments=arguments_of(call.function.arguments))
        found.append(ToolCall(id=call.id, type="function", function=function))
    return found


def arguments_of(text: str, wrong: str = "invalid tool call arguments") -> dict[str, Any]:
    """The arguments of a call from their JSON. Raises RequestError."""
    try:
        value = json_value(text) if text else None
    except ValueError:
        value = text
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(wrong)
    return value


def messages_of(asked: Sequence[ChatMessage]) -> list[Message]:
    """OpenAI's messages as ours. Raises RequestError."""
    names = {call.id: call.function.name for message in asked for call in message.tool_calls or []}
    found: list[Message] = []
    for message in asked:
        role = role_of(message.role)
        tool = message.role.lower() == "tool"
        rest: dict[str, Any] = {
            "thinking": message.reasoning or message.reasoning_content,
            "tool_calls": _calls(message.tool_calls),
            "tool_name": (message.name or names.get(message.tool_call_id, "")) if tool else "",
            "tool_call_id": message.tool_call_id,
        }
        content = message.content
        if isinstance(content, list):
            parts = [_part(role, part) for part in content] or [Message(role=role)]
            if message.tool_calls or tool:
                parts[-1] = msgspec.structs.replace(parts[-1], **rest)
            found += parts
        elif isinstance(content, str) or (content is None and message.tool_calls is not None):
            found.append(Message(role=role, content=content or "", **rest))
        else:
            raise RequestError(f"invalid message content type: {go_type(content)}")
    return found
