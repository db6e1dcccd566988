"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from ollamapy.prompt.parsers import Content, Piece, Thinking, ToolCall
from ollamapy.server.checks import logprob_count
from ollamapy.server.conversation import Asked, Conversation, Reply
from ollamapy.server.decode import read_request
from ollamapy.server.dialect_errors import error_value
from ollamapy.server.encode import cached_tokens, logprob_entry
from ollamapy.server.errors import RequiredError
from ollamapy.server.formats import response_format
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.openai_requests import (
    ChatCompletionRequest,
    biases,
    choices,
    effort_think,
    messages_of,
    options_of,
)
from ollamapy.server.options import merge_options
from ollamapy.server.service import Service, Timing
from ollamapy.server.sse import Event, stream_sse
from ollamapy.server.streaming import json_response
from ollamapy.server.tool_choice import choose
from ollamapy.types import RequestError, TokenLogprob, Usage

FINGERPRINT = "fp_ollama"
DONE = Event("[DONE]")


def number() -> int:
    """What tells the ids of answers apart."""
    return random.randrange(10**6)


def usage_value(usages: list[Usage]) -> dict[str, Any]:
    """Usage of an answer with several choices, whose prompt counts once."""
    prompt = max((usage.prompt_tokens for usage in usages), default=0)
    completion = sum(usage.completion_tokens for usage in usages)
    value: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if cached := (cached_tokens(usages[0]) if usages else 0):
        value["prompt_tokens_details"] = {"cached_tokens": cached}
    return value


def merged(conversations: list[Conversation]) -> AsyncGenerator[Reply, None]:
    """The replies of several answers to one prompt as they come, with the index of the answer.

    The first one begins alone, so that the others find its prompt computed.
    """
    return conversations[0].replies() if len(conversations) == 1 else _merged(conversations)


async def _merged(conversations: list[Conversation]) -> AsyncGenerator[Reply, None]:
    queue: asyncio.Queue[Reply | BaseException | None] = asyncio.Queue()
    begun = asyncio.Event()

    async def run(index: int) -> None:
        try:
            if index:
                await begun.wait()
            async with aclosing(conversations[index].replies()) as replies:
                async for reply in replies:
                    begun.set()
                    reply.index = index
                    queue.put_nowait(reply)
            queue.put_nowait(None)
        except asyncio.CancelledError:
            queue.put_nowait(RuntimeError("cancelled"))
            raise
        except Exception as error:
            queue.put_nowait(error)
        finally:
            begun.set()

    tasks = [asyncio.create_task(run(index)) for index in range(len(conversations))]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, Reply):
                yield item
            else:
                raise item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def call_value(call: ToolCall, index: int) -> dict[str, Any]:
    arguments = orjson.dumps(call.arguments).decode()
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "index": index, "type": "function", "function": function}


@dataclass
class _Choice:
    """One answer as it grows."""

    pieces: list[Piece] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    calls: int = 0
    spoke: bool = False  # whether its role has been said


@dataclass
class Writer:
    """Chunks of one completion."""

    model: str
    with_top: bool
    parallel: bool
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: f"chatcmpl-{number()}")
    _chunk_head: dict[str, Any] = field(default_factory=dict)

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def chunk(self, chosen: list[dict[str, Any]], **more: Any) -> Event:
        if not self._chunk_head:
            self._chunk_head = self.head("chat.completion.chunk")
        return Event({**self._chunk_head, "choices": chosen, **more})

    def events(self, reply: Reply, state: _Choice) -> list[Event]:
        """A reply as chunks, one for each run of pieces of a kind."""
        found: list[Event] = []
        index = reply.index
        logprobs = self.entries(reply.logprobs)
        deltas = [self._delta(piece, state) for piece in self.kept(reply.pieces, state)]
        if logprobs and not deltas:
            deltas = [{"content": ""}]
        for delta in deltas:
            if not state.spoke:
                delta = {"role": "assistant", **delta}
                state.spoke = True
            choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": None}
            if logprobs:
                choice["logprobs"] = {"content": logprobs}
                logprobs = []
            found.append(self.chunk([choice]))
        if reply.done_reason is not None:
            if not state.spoke:
                empty = {"role": "assistant", "content": ""}
                found.append(self.chunk([{"index": index, "delta": empty, "finish_reason": None}]))
            reason = finish_reason(reply, state.calls)
            found.append(self.chunk([{"index": index, "delta": {}, "finish_reason": reason}]))
        return found

    def _delta(self, piece: Piece, state: _Choice) -> dict[str, Any]:
        if isinstance(piece, Thinking):
            return {"content": "", "reasoning": piece.text}
        if isinstance(piece, ToolCall):
            value = {"content": "", "tool_calls": [call_value(piece, state.calls)]}
            state.calls += 1
            return value
        return {"content": piece.text}

    def kept(self, pieces: list[Piece], state: _Choice) -> list[Piece]:
        """All pieces; without parallel calls only the first call."""
        found: list[Piece] = []
        calls = state.calls
        for piece in pieces:
            if isinstance(piece, ToolCall):
                calls += 1
                if calls > 1 and not self.parallel:
                    continue
            found.append(piece)
        return found

    def entries(self, logprobs: list[TokenLogprob]) -> list[dict[str, Any]]:
        return [logprob_entry(entry, self.with_top) for entry in logprobs]

    def message(self, state: _Choice) -> dict[str, Any]:
        """The whole message of a choice."""
        content = "".join(piece.text for piece in state.pieces if isinstance(piece, Content))
        thinking = "".join(piece.text for piece in state.pieces if isinstance(piece, Thinking))
        calls = [piece for piece in state.pieces if isinstance(piece, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thinking:
            message["reasoning"] = thinking
        if calls:
            message["tool_calls"] = [call_value(call, i) for i, call in enumerate(calls)]
        return message


def finish_reason(reply: Reply, calls: int) -> str:
    return "tool_calls" if reply.done_reason == "stop" and calls else str(reply.done_reason)


async def _stream(
    conversations: list[Conversation], writer: Writer, include_usage: bool
) -> AsyncGenerator[Event, None]:
    states = [_Choice() for _ in conversations]
    usages: dict[int, Usage] = {}
    async with aclosing(merged(conversations)) as replies:
        async for reply in replies:
            for event in writer.events(reply, states[reply.index]):
                yield event
            if reply.usage is not None:
                usages[reply.index] = reply.usage
    if include_usage:
        yield writer.chunk([], usage=usage_value([usages[i] for i in sorted(usages)]))
    yield DONE


async def _collect(conversations: list[Conversation], writer: Writer) -> dict[str, Any]:
    states = [_Choice() for _ in conversations]
    chosen: list[dict[str, Any]] = [{} for _ in conversations]
    usages: dict[int, Usage] = {}
    async with aclosing(merged(conversations)) as replies:
        async for reply in replies:
            index = reply.index
            state = states[index]
            kept = writer.kept(reply.pieces, state)
            state.pieces += kept
            state.calls += sum(isinstance(piece, ToolCall) for piece in kept)
            state.logprobs += writer.entries(reply.logprobs)
            if reply.done_reason is not None:
                reason = finish_reason(reply, state.calls)
                message = writer.message(state)
                chosen[index] = {"index": index, "message": message, "finish_reason": reason}
                if state.logprobs:
                    chosen[index]["logprobs"] = {"content": state.logprobs}
                usages[index] = reply.usage or Usage()
    usage = usage_value([usages[i] for i in sorted(usages)])
    return {**writer.head("chat.completion"), "choices": chosen, "usage": usage}


def stream_failed(status: int, text: str) -> list[Event]:
    return [Event(error_value("openai", status, text))]


async def chat_completions(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, ChatCompletionRequest)
    if not asked.messages:
        raise RequestError("[] is too short - 'messages'")
    messages = messages_of(asked.messages)
    max_tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    native = options_of(asked, max_tokens)
    think = effort_think(asked.reasoning.effort if asked.reasoning is not None else asked.reasoning_effort)
    count = logprob_count(asked.logprobs, asked.top_logprobs)
    if not asked.model:
        raise RequiredError("model is required")
    model = await find_model(service.store, asked.model)
    bias = biases(asked.logit_bias)
    n = choices(asked.n)
    tool_choice = await choose(asked.tools, asked.tool_choice, asked.parallel_tool_calls)
    grammar = tool_choice.grammar or await response_format(asked.response_format, "response_format")

    def conversation(branch: int) -> Conversation:
        options = merge_options(model.stored.parameters, native)
        options.sampling.logit_bias = bias
        return Conversation(
            service,
            Asked(
                model=model,
                options=options,
                messages=messages,
                tools=tool_choice.tools,
                think=think,
                grammar=grammar,
                forced=tool_choice.grammar is not None,
                branch=branch,
                logprobs=count,
                client=client_of(request, service.settings.api_keys),
                timing=timing,
            ),
        )

    conversations = [conversation(branch) for branch in range(n)]
    writer = Writer(asked.model, count > 0, asked.parallel_tool_calls)
    if asked.debug_render_only:
        return json_response(await rendered(conversations[0], writer))
    if asked.stream:
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await stream_sse(request, _stream(conversations, writer, include_usage), stream_failed)
    return json_response(await _collect(conversations, writer))


async def rendered(conversation: Conversation, writer: Writer) -> dict[str, Any]:
    """What `_debug_render_only` asks for: the prompt instead of an answer."""
    choice = {"index": 0, "message": {"role": "", "content": ""}, "finish_reason": None}
    text, images = await conversation.rendered()
    info = {"rendered_template": text, **({"image_count": images} if images else {})}
    return {
        **writer.head("chat.completion"),
        "choices": [choice],
        "usage": usage_value([]),
        "_debug_info": info,
    }
