"""POST /api/generate and /api/chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ollamapy.prompt.parsers import Content, Piece, Thinking, ToolCall
from ollamapy.server.checks import logprob_count
from ollamapy.server.conversation import Asked, Conversation, Question, Reply
from ollamapy.server.decode import read_request
from ollamapy.server.encode import logprob_entry, timestamp, usage_fields
from ollamapy.server.errors import RequiredError
from ollamapy.server.formats import native_format
from ollamapy.server.keys import client_of
from ollamapy.server.models import ServedModel, find_model
from ollamapy.server.options import merge_options
from ollamapy.server.requests import ChatRequest, GenerateRequest
from ollamapy.server.service import Service, Timing
from ollamapy.server.streaming import Event, json_response, stream_events
from ollamapy.server.trace import note_end
from ollamapy.types import Usage


@dataclass
class Writer:
    """Events of one answer."""

    model: str
    chat: bool
    with_top: bool
    timing: Timing
    calls: int = 0  # written so far

    def event(self, content: str = "", thinking: str = "", calls: list[ToolCall] | None = None) -> Event:
        """A piece of the answer: in chat a message, else the same fields at the top."""
        written = []
        for call in calls or []:
            function = {"index": self.calls, "name": call.name, "arguments": call.arguments}
            written.append({"id": call.id, "function": function})
            self.calls += 1
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if written:
            more["tool_calls"] = written
        head = {"model": self.model, "created_at": timestamp()}
        if self.chat:
            return {**head, "message": {"role": "assistant", "content": content, **more}, "done": False}
        return {**head, "response": content, **more, "done": False}

    def ended(self, reason: str) -> Event:
        """The answer to a load or an unload, and the frame of every last event."""
        return {**self.event(), "done": True, "done_reason": reason}

    def events(self, reply: Reply) -> list[Event]:
        """A reply as events, whose fields keep the order of its pieces."""
        events = [self._joined(run) for run in _runs(reply.pieces)]
        if reply.logprobs:
            events = events or [self.event()]
            events[0]["logprobs"] = [logprob_entry(entry, self.with_top) for entry in reply.logprobs]
        if reply.done_reason is not None:
            last = self.ended(reply.done_reason)
            if reply.context is not None:
                last["context"] = reply.context
            last.update(usage_fields(reply.usage or Usage(), self.timing))
            events.append(last)
        return events

    def whole(self, pieces: list[Piece], logprobs: list[Any], last: Event) -> Event:
        """All events as one."""
        event = {**last, **self._joined(pieces), "done": last["done"]}
        if logprobs:
            event["logprobs"] = logprobs
        return event

    def _joined(self, pieces: list[Piece]) -> Event:
        return self.event(
            "".join(piece.text for piece in pieces if isinstance(piece, Content)),
            "".join(piece.text for piece in pieces if isinstance(piece, Thinking)),
            [piece for piece in pieces if isinstance(piece, ToolCall)],
        )


_RANK = {Thinking: 0, Content: 1, ToolCall: 2}  # the order in which readers of an event take its fields


def _runs(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces that an event can say without a change of their order."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if runs and _RANK[type(runs[-1][-1])] <= _RANK[type(piece)]:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


async def stream(conversation: Conversation, writer: Writer) -> AsyncGenerator[Event, None]:
    async with aclosing(conversation.replies()) as replies:
        async for reply in replies:
            for event in writer.events(reply):
                yield event


async def collect(conversation: Conversation, writer: Writer) -> Event:
    """The whole answer in one event."""
    pieces: list[Piece] = []
    logprobs: list[Any] = []
    last: Event = {}
    async with aclosing(conversation.replies()) as replies:
        async for reply in replies:
            pieces += reply.pieces
            logprobs += [logprob_entry(entry, writer.with_top) for entry in reply.logprobs]
            if reply.done_reason is not None:
                last = writer.events(reply)[-1]
    return writer.whole(pieces, logprobs, last)


async def answer(
    request: web.Request, conversation: Conversation, streaming: bool, debug: bool, chat: bool
) -> web.StreamResponse:
    asked = conversation.asked
    writer = Writer(asked.model.asked, chat, asked.logprobs > 0, asked.timing)
    if conversation.is_empty:
        return json_response(writer.ended(await conversation.load()))
    if debug:
        value = writer.event()
        if chat:
            value["message"]["role"] = ""
        text, images = await conversation.rendered()
        value["_debug_info"] = {"rendered_template": text, **({"image_count": images} if images else {})}
        return json_response(value)
    if streaming:
        return await stream_events(request, stream(conversation, writer))
    return json_response(await collect(conversation, writer))


async def unload(service: Service, writer: Writer, model: ServedModel) -> web.Response:
    """Let a model go, whatever else the request says."""
    note_end("unload")
    await service.residency.release(model.stored.weights)
    return json_response(writer.ended("unload"))


async def generate(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, GenerateRequest)
    count = logprob_count(asked.logprobs, asked.top_logprobs)
    model = await find_model(service.store, asked.model)
    if not asked.prompt and asked.keep_alive == 0:
        return await unload(service, Writer(model.asked, False, False, timing), model)
    conversation = Conversation(
        service,
        Asked(
            model=model,
            options=merge_options(model.stored.parameters, asked.options),
            question=Question(
                prompt=asked.prompt,
                suffix=asked.suffix,
                system=asked.system,
                template=asked.template,
                context=asked.context,
                raw=asked.raw,
                images=asked.images,
            ),
            think=asked.think,
            grammar=await native_format(asked.format)
            if asked.prompt and not asked.debug_render_only
            else None,
            keep_alive=asked.keep_alive,
            truncate=asked.truncate,
            shift=asked.shift,
            logprobs=count,
            client=client_of(request, service.settings.api_keys),
            timing=timing,
        ),
    )
    return await answer(request, conversation, asked.stream, asked.debug_render_only, chat=False)


async def chat(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, ChatRequest)
    count = logprob_count(asked.logprobs, asked.top_logprobs)
    if not asked.model:
        raise RequiredError("model is required")
    model = await find_model(service.store, asked.model)
    if not asked.messages and asked.keep_alive == 0:
        return await unload(service, Writer(model.asked, True, False, timing), model)
    conversation = Conversation(
        service,
        Asked(
            model=model,
            options=merge_options(model.stored.parameters, asked.options),
            messages=asked.messages,
            tools=asked.tools or [],
            empty_tools=asked.tools == [],
            think=asked.think,
            grammar=await native_format(asked.format)
            if asked.messages and not asked.debug_render_only
            else None,
            keep_alive=asked.keep_alive,
            truncate=asked.truncate,
            shift=asked.shift,
            logprobs=count,
            client=client_of(request, service.settings.api_keys),
            timing=timing,
        ),
    )
    return await answer(request, conversation, asked.stream, asked.debug_render_only, chat=True)
