"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from ollamapy.prompt.parsers import Content, Piece, Thinking, ToolCall
from ollamapy.server import web_search
from ollamapy.server.anthropic_requests import (
    CountTokensRequest,
    MessagesRequest,
    functions_of,
    messages_of,
    think_of,
)
from ollamapy.server.conversation import Asked, Conversation, Reply
from ollamapy.server.decode import read_request
from ollamapy.server.dialect_errors import error_value
from ollamapy.server.errors import RequiredError
from ollamapy.server.formats import response_format
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.options import merge_options
from ollamapy.server.service import Service, Timing
from ollamapy.server.sse import Event, stream_sse
from ollamapy.server.streaming import json_response
from ollamapy.server.tool_choice import choose
from ollamapy.server.trace import note_uncached
from ollamapy.types import RequestError, Usage


def usage_value(usage: Usage) -> dict[str, int]:
    return {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}


@dataclass
class Writer:
    """Events of one message, and its blocks."""

    model: str
    parallel: bool
    stop_sequences: list[str]
    id: str = field(default_factory=lambda: "msg_" + secrets.token_hex(12))
    blocks: list[dict[str, Any]] = field(default_factory=list)
    searches: bool = False  # whether the server's own search was offered
    calls: int = 0
    _open: bool = False  # whether more text may go into the last block

    def frame(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}

    def start(self, prompt_tokens: int) -> Event:
        message = {
            **self.frame(),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": prompt_tokens, "output_tokens": 0},
        }
        return self._event("message_start", message=message)

    def events(self, reply: Reply) -> list[Event]:
        found: list[Event] = []
        for piece in reply.pieces:
            if isinstance(piece, ToolCall) and self.searches and piece.name == web_search.NAME:
                found += self._search(piece)
            elif isinstance(piece, ToolCall):
                if self.calls == 0 or self.parallel:
                    found += self._call(piece)
            elif isinstance(piece, (Content, Thinking)) and piece.text:
                found += self._text(piece)
        return found

    def end(self, reply: Reply) -> list[Event]:
        found = self.close()
        delta = {"stop_reason": self.stop_reason(reply), "stop_sequence": self.stopped_by(reply)}
        found.append(self._event("message_delta", delta=delta, usage=usage_value(reply.usage or Usage())))
        return [*found, self._event("message_stop")]

    def stop_reason(self, reply: Reply) -> str:
        if reply.done_reason == "length":
            return "max_tokens"
        if self.calls:
            return "tool_use"
        # the model's own stop sequences end its turn as its end token does
        return "stop_sequence" if reply.stop in self.stop_sequences else "end_turn"

    def stopped_by(self, reply: Reply) -> str | None:
        """The sequence that ended it, if nothing else did."""
        return reply.stop if self.stop_reason(reply) == "stop_sequence" else None

    def message(self, reply: Reply) -> dict[str, Any]:
        return {
            **self.frame(),
            "content": self.blocks,
            "stop_reason": self.stop_reason(reply),
            "stop_sequence": self.stopped_by(reply),
            "usage": usage_value(reply.usage or Usage()),
        }

    def close(self) -> list[Event]:
        """What ends the block that is open."""
        if not self._open:
            return []
        self._open = False
        return [self._event("content_block_stop", index=len(self.blocks) - 1)]

    def failed(self, status: int, text: str) -> list[Event]:
        return [Event(error_value("anthropic", status, text), "error")]

    def _event(self, kind: str, **data: Any) -> Event:
        return Event({"type": kind, **data}, kind)

    def _begin(self, block: dict[str, Any], shown: dict[str, Any]) -> list[Event]:
        found = self.close()
        self.blocks.append(block)
        self._open = True
        return [
            *found,
            self._event("content_block_start", index=len(self.blocks) - 1, content_block=shown),
        ]

    def _text(self, piece: Piece) -> list[Event]:
        kind = "thinking" if isinstance(piece, Thinking) else "text"
        text = piece.text if isinstance(piece, (Content, Thinking)) else ""
        found: list[Event] = []
        if not self._open or self.blocks[-1]["type"] != kind:
            block = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
            found += self._begin(block, dict(block))
        self.blocks[-1][kind] += text
        delta = {"type": f"{kind}_delta", kind: text}
        return [*found, self._event("content_block_delta", index=len(self.blocks) - 1, delta=delta)]

    def _call(self, call: ToolCall) -> list[Event]:
        self.calls += 1
        return self._use({"type": "tool_use", "id": call.id, "name": call.name}, call)

    def _search(self, call: ToolCall) -> list[Event]:
        """A call of the server's own search and its result, which is a failure."""
        use = f"srvtoolu_{self.id.removeprefix('msg_')}_{len(self.blocks)}"
        found = self._use({"type": "server_tool_use", "id": use, "name": call.name}, call)
        code = "unavailable" if web_search.query_of(call.arguments) else "invalid_tool_input"
        error = {"type": "web_search_tool_result_error", "error_code": code}
        result = {"type": "web_search_tool_result", "tool_use_id": use, "content": error}
        return [*found, *self._begin(result, result), *self.close()]

    def _use(self, block: dict[str, Any], call: ToolCall) -> list[Event]:
        found = self._begin({**block, "input": call.arguments}, {**block, "input": {}})
        delta = {"type": "input_json_delta", "partial_json": orjson.dumps(call.arguments).decode()}
        found.append(self._event("content_block_delta", index=len(self.blocks) - 1, delta=delta))
        return [*found, *self.close()]


async def _stream(conversation: Conversation, writer: Writer) -> AsyncGenerator[Event, None]:
    begun = False
    async with aclosing(conversation.replies()) as replies:
        async for reply in replies:
            if not begun:  # not before: until then a failure is a plain one
                begun = True
                yield writer.start(conversation.prompt_length)
            for event in writer.events(reply):
                yield event
            if reply.done_reason is not None:
                for event in writer.end(reply):
                    yield event


async def _collect(conversation: Conversation, writer: Writer) -> dict[str, Any]:
    last = Reply()
    async with aclosing(conversation.replies()) as replies:
        async for last in replies:
            writer.events(last)
    return writer.message(last)


async def _conversation(
    request: web.Request, service: Service, asked: CountTokensRequest, native: dict[str, Any]
) -> Conversation:
    timing = Timing()
    if not asked.model:
        raise RequiredError("model is required")
    if not asked.messages:
        raise RequestError("messages is required")
    messages = messages_of(asked)
    if not messages:
        raise RequestError("messages: all messages are empty")
    tools = functions_of(asked.tools)
    if isinstance(asked, MessagesRequest) and asked.stream:
        note_uncached()
    model = await find_model(service.store, asked.model)
    value = asked.tool_choice or {}
    parallel = value.get("disable_parallel_tool_use") is not True
    tool_choice = await choose(tools, value or None, parallel)
    wanted = None if asked.output_config is None else asked.output_config.format
    grammar = tool_choice.grammar or await response_format(wanted, "output_config.format")
    return Conversation(
        service,
        Asked(
            model=model,
            options=merge_options(model.stored.parameters, native),
            messages=messages,
            tools=tool_choice.tools,
            think=think_of(asked),
            relax_thinking=True,
            grammar=grammar,
            forced=tool_choice.grammar is not None,
            client=client_of(request, service.settings.api_keys),
            timing=timing,
        ),
    )


async def messages(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, MessagesRequest)
    if not asked.model:
        raise RequiredError("model is required")
    if asked.max_tokens <= 0:
        raise RequestError("max_tokens is required and must be positive")
    native: dict[str, Any] = {
        "num_predict": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
    }
    if asked.stop_sequences:
        native["stop"] = asked.stop_sequences
    conversation = await _conversation(request, service, asked, native)
    parallel = (asked.tool_choice or {}).get("disable_parallel_tool_use") is not True
    searches = any(web_search.is_search(tool) for tool in asked.tools)
    writer = Writer(asked.model, parallel, asked.stop_sequences, searches=searches)
    if asked.stream:
        return await stream_sse(request, _stream(conversation, writer), writer.failed)
    return json_response(await _collect(conversation, writer))


async def count_tokens(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, CountTokensRequest)
    conversation = await _conversation(request, service, asked, {})
    return json_response({"input_tokens": len(await conversation.prompt_tokens())})
