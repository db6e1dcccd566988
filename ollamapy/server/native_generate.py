"""POST /api/generate and /api/chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from ollamapy.server.checks import (
    check_capability,
    check_completion,
    check_format,
    check_images,
    check_think,
    logprob_count,
)
from ollamapy.server.decode import read_request
from ollamapy.server.duration import keep_alive
from ollamapy.server.encode import logprob_entry, timestamp, usage_fields
from ollamapy.server.errors import RequiredError
from ollamapy.server.models import ServedModel, find_model
from ollamapy.server.options import Options, merge_options
from ollamapy.server.requests import ChatRequest, GenerateRequest, Message
from ollamapy.server.service import Generation, Limits, Service, Timing, fit_messages, tokenize
from ollamapy.server.streaming import Event, json_response, stream_events
from ollamapy.types import RequestError, Usage

if TYPE_CHECKING:
    from ollamapy.engine.protocol import LoadedModel

Body = Callable[[str], dict[str, Any]]
"""what carries a piece of text in an event"""
Final = Callable[[str], Awaitable[dict[str, Any]]]
"""fields of the last event, made of the whole answer"""


@dataclass
class Work:
    """A request that has been checked."""

    model: ServedModel
    options: Options
    keep_alive: float | None
    limits: Limits
    timing: Timing
    body: Body

    def head(self) -> Event:
        return {"model": self.model.asked, "created_at": timestamp()}

    def event(self, text: str) -> Event:
        return {**self.head(), **self.body(text), "done": False}

    def ended(self, reason: str) -> Event:
        """The answer to a load or an unload."""
        return {**self.head(), **self.body(""), "done": True, "done_reason": reason}


async def load_or_unload(service: Service, work: Work) -> web.Response:
    """A request without a prompt: one JSON object even when streaming."""
    if work.keep_alive == 0:
        await service.residency.release(work.model.key)
        return json_response(work.ended("unload"))
    async with service.resident(work.model, work.keep_alive, work.options, work.timing):
        return json_response(work.ended("load"))


async def text_events(
    generation: Generation, work: Work, final: Final | None = None
) -> AsyncGenerator[Event, None]:
    """Events of an answer. The last one has no text; `final` adds fields that depend on the whole answer."""
    answer: list[str] = []
    with_top = work.limits.logprobs > 0
    async for delta in generation.deltas:
        if delta.text or delta.logprobs:
            event = work.event(delta.text)
            if delta.logprobs:
                event["logprobs"] = [logprob_entry(entry, with_top) for entry in delta.logprobs]
            answer.append(delta.text)
            yield event
        if delta.done_reason is not None:
            last = work.ended(delta.done_reason)
            if final is not None:
                last.update(await final("".join(answer)))
            last.update(usage_fields(delta.usage or Usage(), work.timing))
            yield last
            return


async def collect(events: AsyncGenerator[Event, None], work: Work) -> Event:
    """All events as one."""
    texts: list[str] = []
    logprobs: list[Any] = []
    last: Event = {}
    async with aclosing(events):
        async for event in events:
            texts.append(event["message"]["content"] if "message" in event else event["response"])
            logprobs += event.get("logprobs", [])
            last = event
    last.update(work.body("".join(texts)))
    if logprobs:
        last["logprobs"] = logprobs
    return last


async def answer(
    request: web.Request, events: AsyncGenerator[Event, None], work: Work, stream: bool
) -> web.StreamResponse:
    if stream:
        return await stream_events(request, events)
    return json_response(await collect(events, work))


def debug_response(work: Work, text: str) -> web.Response:
    """What `_debug_render_only` asks for: the prompt instead of an answer."""
    body = work.body("")
    if "message" in body:
        body["message"]["role"] = ""
    value = {**work.head(), **body, "done": False, "_debug_info": {"rendered_template": text}}
    return json_response(value)


async def generate(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, GenerateRequest)
    model = await find_model(service.store, asked.model)
    count = logprob_count(asked.logprobs, asked.top_logprobs)
    work = Work(
        model=model,
        options=merge_options(model.stored.parameters, asked.options),
        keep_alive=keep_alive(asked.keep_alive),
        limits=Limits(asked.truncate, asked.shift, count),
        timing=timing,
        body=lambda text: {"response": text},
    )
    if asked.raw and (asked.template or asked.system or asked.context):
        raise RequestError("raw mode does not support template, system, or context")
    check_format(asked.format)
    think = check_think(asked.think, model)
    check_completion(model, "generate")
    if asked.suffix:
        check_capability(model, "insert")
    check_images(asked.images, model)
    if not asked.prompt and not asked.debug_render_only:
        return await load_or_unload(service, work)

    render = None if asked.raw else model.generate_renderer(asked.template, asked.suffix, think)
    messages = chat_messages(model, [Message(role="user", content=asked.prompt)], asked.system)
    if render is not None:
        render(messages)  # a template that fails is an error before anything is loaded

    async def write_prompt(loaded: LoadedModel) -> tuple[str, list[int]]:
        earlier = earlier_text(loaded, asked.context) if asked.context else ""
        if render is None:
            text = earlier + asked.prompt
            return text, await tokenize(loaded, text)
        limit = service.window(loaded, work.options) if asked.truncate else None
        return await fit_messages(loaded, messages, lambda turns: earlier + render(turns), limit)

    async def events() -> AsyncGenerator[Event, None]:
        async with service.resident(model, work.keep_alive, work.options, timing) as loaded:
            text, prompt = await write_prompt(loaded)

            async def final(answer: str) -> dict[str, Any]:
                return {"context": await tokenize(loaded, text + answer)}

            async with service.generation(loaded, prompt, work.options, work.limits) as generation:
                async for event in text_events(generation, work, None if asked.raw else final):
                    yield event

    if asked.debug_render_only:
        async with service.resident(model, work.keep_alive, work.options, timing) as loaded:
            return debug_response(work, (await write_prompt(loaded))[0])
    return await answer(request, events(), work, asked.stream)


def earlier_text(loaded: LoadedModel, context: list[int]) -> str:
    """The text of `context`, which goes before the prompt. A leading BOS is left to the tokenizer."""
    tokenizer = loaded.tokenizer
    if tokenizer.add_bos and context and context[0] == tokenizer.bos:
        context = context[1:]
    try:
        data: bytes = tokenizer.decode(context, True)
    except (ValueError, OverflowError, TypeError):
        raise RequestError("context has a token that the model does not know") from None
    return data.decode("utf-8", "replace")


def chat_messages(model: ServedModel, messages: list[Message], system: str = "") -> list[dict[str, Any]]:
    """Messages as templates see them: roles in lower case, the model's own history and system text before
    them."""
    asked = [as_turn(message) for message in messages]
    history = [as_turn(msgspec.convert(message, Message)) for message in model.stored.messages]
    system = system or model.stored.system
    if system and asked[0]["role"] != "system":
        history.insert(0, {"role": "system", "content": system})
    return history + asked


def as_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role.lower(), "content": message.content}
    if message.thinking:
        turn["thinking"] = turn["reasoning_content"] = message.thinking
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        turn["tool_name"] = turn["name"] = message.tool_name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


async def chat(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, ChatRequest)
    if not asked.model:
        raise RequiredError("model is required")
    model = await find_model(service.store, asked.model)
    count = logprob_count(asked.logprobs, asked.top_logprobs)
    work = Work(
        model=model,
        options=merge_options(model.stored.parameters, asked.options),
        keep_alive=keep_alive(asked.keep_alive),
        limits=Limits(asked.truncate, asked.shift, count),
        timing=timing,
        body=lambda text: {"message": {"role": "assistant", "content": text}},
    )
    check_format(asked.format)
    check_completion(model, "chat")
    if asked.tools:
        check_capability(model, "tools")
    think = check_think(asked.think, model)
    for message in asked.messages:
        check_images(message.images, model)
    if not asked.messages:
        return await load_or_unload(service, work)

    messages = chat_messages(model, asked.messages)

    def render(turns: list[dict[str, Any]]) -> str:
        return model.render_chat(turns, asked.tools or None, think)

    render(messages)  # a template that refuses is an error before anything is loaded

    async def events() -> AsyncGenerator[Event, None]:
        async with service.resident(model, work.keep_alive, work.options, timing) as loaded:
            limit = service.window(loaded, work.options) if asked.truncate else None
            _, prompt = await fit_messages(loaded, messages, render, limit)
            async with service.generation(loaded, prompt, work.options, work.limits) as generation:
                async for event in text_events(generation, work):
                    yield event

    if asked.debug_render_only:
        async with service.resident(model, work.keep_alive, work.options, timing) as loaded:
            limit = service.window(loaded, work.options) if asked.truncate else None
            return debug_response(work, (await fit_messages(loaded, messages, render, limit))[0])
    return await answer(request, events(), work, asked.stream)
