"""The bodies of /v1/messages, and how they become our own messages and tools."""

from __future__ import annotations

from typing import Any

import msgspec

from ollamapy.server import web_search
from ollamapy.server.checks import is_base64
from ollamapy.server.requests import Message, ToolCall, ToolCallFunction
from ollamapy.types import RequestError


class AnthropicMessage(msgspec.Struct, kw_only=True):
    role: str = ""
    content: Any = None


class ThinkingConfig(msgspec.Struct, kw_only=True):
    type: str = ""
    budget_tokens: int | None = None


class OutputConfig(msgspec.Struct, kw_only=True):
    effort: str = ""
    format: dict[str, Any] | None = None


class CountTokensRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    messages: list[AnthropicMessage] = []
    system: Any = None
    tools: list[dict[str, Any]] = []
    tool_choice: dict[str, Any] | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    max_tokens: int = 0
    stop_sequences: list[str] = []
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


def messages_of(asked: CountTokensRequest) -> list[Message]:
    """system and messages as a conversation. Raises RequestError."""
    found: list[Message] = []
    system = asked.system
    if isinstance(system, list):
        system = "".join(_text(block) for block in system if isinstance(block, dict))
    if isinstance(system, str) and system:
        found.append(Message(role="system", content=system))
    names: dict[str, str] = {}
    for message in asked.messages:
        found += _turn(message, names)
    return found


def _text(block: dict[str, Any]) -> str:
    text = block.get("text")
    return text if block.get("type") == "text" and isinstance(text, str) else ""


def _turn(asked: AnthropicMessage, names: dict[str, str]) -> list[Message]:
    """One message; the results of tools in it become messages of their own, before what the user says."""
    if isinstance(asked.content, str):
        return [Message(role=asked.role, content=asked.content)]
    if not isinstance(asked.content, list):
        raise RequestError("messages: content must be a string or an array of blocks")
    message = Message(role=asked.role)
    texts: list[str] = []
    results: list[Message] = []
    for block in asked.content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(_text(block))
        elif kind == "image":
            message.images.append(_image(block.get("source")))
        elif kind in ("document", "search_result"):
            texts.append(_document(block))
        elif kind in ("tool_use", "server_tool_use"):
            for required in ("id", "name"):
                if not isinstance(block.get(required), str) or not block[required]:
                    raise RequestError(f"tool_use block missing required '{required}' field")
            names[block["id"]] = block["name"]
            arguments = block.get("input")
            function = ToolCallFunction(
                name=block["name"], arguments=arguments if isinstance(arguments, dict) else {}
            )
            message.tool_calls.append(ToolCall(id=block["id"], type="function", function=function))
        elif kind == "tool_result":
            results.append(_result(block, names))
        elif kind == "web_search_tool_result":
            results.append(_tool_message(block, _search_results(block.get("content")), names))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            message.thinking = block["thinking"]
        elif not isinstance(block, dict):
            raise RequestError("messages: a block is an object")
    message.content = "".join(texts)
    says = message.content or message.images or message.tool_calls or message.thinking
    own = [message] if says else []
    return [*results, *own] if asked.role.lower() == "user" else [*own, *results]


def _result(block: dict[str, Any], names: dict[str, str]) -> Message:
    content, images = block.get("content"), []
    if isinstance(content, list):
        images = [
            _image(part.get("source"), "tool_result image") for part in content if _kind(part) == "image"
        ]
        content = "".join(
            _document(part) if _kind(part) in ("document", "search_result") else _text(part)
            for part in content
            if isinstance(part, dict)
        )
    if content is not None and not isinstance(content, str):
        raise RequestError("tool_result: content must be a string or an array of blocks")
    message = _tool_message(block, content or "", names)
    message.images = images
    return message


def _tool_message(block: dict[str, Any], content: str, names: dict[str, str]) -> Message:
    call = block.get("tool_use_id")
    call = call if isinstance(call, str) else ""
    return Message(role="tool", content=content, tool_call_id=call, tool_name=names.get(call, ""))


def _document(block: dict[str, Any]) -> str:
    """A document of text or a result of the client's own search, as a model reads it: what it is called, then its text.
    Raises RequestError for a file that somebody would have to read."""
    source = block.get("source")
    if block.get("type") == "search_result":
        content, called = block.get("content"), [block.get("title"), source]
    elif isinstance(source, dict) and source.get("type") in ("text", "content"):
        content, called = (
            source.get("data") or source.get("content"),
            [block.get("title"), block.get("context")],
        )
    else:
        kind = source.get("type") if isinstance(source, dict) else source
        raise RequestError(f"documents of type {kind!r} are not supported: only their text can be read here")
    if isinstance(content, list):
        content = "".join(_text(part) for part in content if isinstance(part, dict))
    lines = [*called, content]
    return "".join(f"{line}\n" for line in lines if isinstance(line, str) and line) + "\n"


def _search_results(content: Any) -> str:
    """What a search of Anthropic's own servers found, as a model reads it: a line for each page, or why nothing was."""
    lines = []
    for found in content if isinstance(content, list) else [content]:
        if _kind(found) == "web_search_tool_result_error":
            return ": ".join(
                ["web_search_tool_result_error", *filter(None, [str(found.get("error_code") or "")])]
            )
        if _kind(found) == "web_search_result":
            lines.append(f"- {found.get('title') or ''}: {found.get('url') or ''}\n")
    return content if isinstance(content, str) else "".join(lines)


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _image(source: Any, what: str = "image") -> str:
    if not isinstance(source, dict):
        raise RequestError(f"invalid {what} source")
    if source.get("type") != "base64" or not isinstance(source.get("data"), str):
        kind = source.get("type") or ""
        raise RequestError(f"invalid image source type: {kind}. Only base64 images are supported.")
    if not is_base64(source["data"]):
        raise RequestError("invalid base64 image data")
    return str(source["data"])


# Tools of Anthropic's that the client runs itself. Its models know their arguments; others guess from the name.
_OF_CLIENTS = ("bash_", "text_editor_", "computer_", "memory_")
_SEARCH = web_search.function(
    "Search the web for current information. Use this to find up-to-date information about any topic.",
    "The search query to look up on the web",
)


def functions_of(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as functions. Raises RequestError for tools that only Anthropic's servers have."""
    searches = any(web_search.is_search(tool) for tool in tools)
    found: list[dict[str, Any]] = []
    for tool in tools:
        kind = tool.get("type") or "custom"
        if web_search.is_search(tool):
            found += [] if _SEARCH in found else [_SEARCH]
            continue
        if kind != "custom" and not str(kind).startswith(_OF_CLIENTS):
            raise RequestError(
                f"tools of type {kind!r} are not supported: only Anthropic's servers have them"
            )
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise RequestError("a tool needs a name")
        if searches and tool["name"] == web_search.NAME:
            continue  # a call of it would be ambiguous
        function = {"name": tool["name"], "description": tool.get("description") or ""}
        function["parameters"] = tool.get("input_schema") or {"type": "object", "properties": {}}
        if tool.get("strict") is True:
            function["strict"] = True
        found.append({"type": "function", "function": function})
    return found


def think_of(asked: CountTokensRequest) -> Any:
    """`thinking` and `output_config.effort` as our think: None when not said."""
    kind = asked.thinking.type if asked.thinking is not None else ""
    if kind in ("enabled", "disabled"):
        return kind == "enabled"
    effort = (asked.output_config.effort if asked.output_config is not None else "").strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in ("low", "medium", "high", "max") else (True if kind == "adaptive" else None)
