"""POST /v1/responses, without state: nothing is stored, and previous_response_id names nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from ollamapy.prompt.parsers import Content, Piece, Thinking, ToolCall
from ollamapy.server import web_search
from ollamapy.server.checks import logprob_count
from ollamapy.server.conversation import Asked, Conversation, Reply
from ollamapy.server.decode import read_request
from ollamapy.server.encode import cached_tokens, logprob_entry
from ollamapy.server.errors import RequiredError
from ollamapy.server.formats import response_format
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.openai_chat import number
from ollamapy.server.openai_requests import effort_think
from ollamapy.server.openai_responses_input import ResponsesRequest, functions_of, input_messages
from ollamapy.server.options import merge_options
from ollamapy.server.service import Service, Timing
from ollamapy.server.sse import Event, stream_sse
from ollamapy.server.streaming import json_response
from ollamapy.server.tool_choice import choose
from ollamapy.server.trace import note_uncached
from ollamapy.types import RequestError, Usage

# OpenAI refuses a smaller max_output_tokens, so that no client of its own can be cut there: who asks for less
# talks to Ollama, which calls every answer completed.
_LEAST_LIMIT = 16

# What these say of themselves in User-Agent: they read the events of a stream as OpenAI's clients do.
_ORDERLY_AGENTS = ("ai-sdk/", "litellm/")

_TOOL = {"name": "", "description": None, "strict": None, "parameters": None}  # a function that says nothing


def usage_value(usage: Usage, reasoning: int, of_openai: bool) -> dict[str, Any]:
    """of_openai: the client is one of OpenAI's, whose types have a field more."""
    written = {"cache_write_tokens": 0} if of_openai else {}
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens(usage), **written},
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }


@dataclass
class _Item:
    """The output item that is being written."""

    kind: str  # "reasoning" or "message"
    id: str
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)

    def value(self, status: str) -> dict[str, Any]:
        if self.kind == "reasoning":
            summary = [{"type": "summary_text", "text": self.text}]
            return {"id": self.id, "type": "reasoning", "summary": summary, "encrypted_content": self.text}
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [self.part(self.text)],
        }

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}


class Writer:
    """The events of one response, and the response itself at any time."""

    def __init__(
        self, asked: ResponsesRequest, with_top: bool, of_openai: bool, orderly: bool = True
    ) -> None:
        """of_openai: the client is one of OpenAI's. orderly: every item is closed before the next one opens;
        Ollama leaves a message that calls follow open for good, and lists it behind them."""
        self.asked = asked
        self._orderly = orderly
        self._of_openai = of_openai
        self._left_open: _Item | None = None
        self._tells_cuts = of_openai or (asked.max_output_tokens or _LEAST_LIMIT) >= _LEAST_LIMIT
        self.with_top = with_top
        self.id = f"resp_{number()}"
        self.created = int(time.time())
        self.output: list[dict[str, Any]] = []
        self._item: _Item | None = None
        self._sequence = 0
        self._calls = 0
        self._searches = any(web_search.is_search(tool) for tool in asked.tools)

    def response(self, status: str, usage: dict[str, Any] | None = None, reason: str = "") -> dict[str, Any]:
        asked = self.asked
        text_format = asked.text.format if asked.text is not None and asked.text.format else {"type": "text"}
        effort = asked.reasoning.effort if asked.reasoning is not None else ""
        summary = asked.reasoning.summary if asked.reasoning is not None else ""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": asked.model,
            "previous_response_id": None,
            "instructions": asked.instructions or None,
            "output": list(self.output),
            "error": None,
            "tools": [_TOOL | tool if tool.get("type") == "function" else tool for tool in asked.tools],
            "tool_choice": asked.tool_choice or "auto",
            "truncation": asked.truncation or "disabled",
            "parallel_tool_calls": asked.parallel_tool_calls,
            "text": {"format": text_format},
            "top_p": 1 if asked.top_p is None else asked.top_p,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": asked.top_logprobs,
            "temperature": 1 if asked.temperature is None else asked.temperature,
            "reasoning": {"effort": effort or None, "summary": summary or None}
            if effort or summary
            else None,
            "usage": usage,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    def event(self, kind: str, **data: Any) -> Event:
        event = Event({"type": kind, "sequence_number": self._sequence, **data}, kind)
        self._sequence += 1
        return event

    def begin(self) -> list[Event]:
        kinds = ("response.created", "response.in_progress")
        return [self.event(kind, response=self.response("in_progress")) for kind in kinds]

    def events(self, reply: Reply) -> list[Event]:
        """A reply as events, the closing ones of the last not among them."""
        found: list[Event] = []
        entries = [logprob_entry(entry, self.with_top) for entry in reply.logprobs]
        for piece in reply.pieces:
            if isinstance(piece, ToolCall) and self._searches and piece.name == web_search.NAME:
                found += self._search(piece)
            elif isinstance(piece, ToolCall):
                if self._calls == 0 or self.asked.parallel_tool_calls:
                    found += self._call(piece)
            elif isinstance(piece, Thinking) or (isinstance(piece, Content) and not self._calls):
                # what a model says behind its calls, Ollama's clients do not expect in a response
                found += self._text(piece, entries)
                entries = []
        return found

    def end(self, reply: Reply) -> list[Event]:
        """What closes the item that is open."""
        return self._close("incomplete" if self._is_cut(reply) else "completed")

    def _is_cut(self, reply: Reply) -> bool:
        return reply.done_reason == "length" and self._tells_cuts

    def ended(self, reply: Reply, whole: bool) -> dict[str, Any]:
        """The finished response. whole: one that was not streamed has a message in it if it has nothing else."""
        if self._left_open is not None:
            self.output.append(self._left_open.value("completed"))
        spoken = any(item["type"] != "reasoning" for item in self.output)
        if whole and not spoken:
            self.output.append(_Item("message", f"msg_{number()}").value("completed"))
        cut = self._is_cut(reply)
        usage = usage_value(reply.usage or Usage(), 0, self._of_openai)
        return self.response("incomplete" if cut else "completed", usage, "max_output_tokens" if cut else "")

    def _at(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item.id, "output_index": len(self.output)}

    def _text(self, piece: Piece, entries: list[Any]) -> list[Event]:
        thinks = isinstance(piece, Thinking)
        kind = "reasoning" if thinks else "message"
        found: list[Event] = []
        if self._item is None or self._item.kind != kind:
            found += self._close("completed")
            self._item = _Item(kind, f"{'rs' if thinks else 'msg'}_{number()}")
            empty: dict[str, Any] = {"id": self._item.id, "type": kind}
            empty |= (
                {"summary": []} if thinks else {"status": "in_progress", "role": "assistant", "content": []}
            )
            found.append(self.event("response.output_item.added", output_index=len(self.output), item=empty))
            if not thinks:
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                found.append(
                    self.event("response.content_part.added", **self._at(), content_index=0, part=part)
                )
        item = self._item
        text = piece.text if isinstance(piece, (Content, Thinking)) else ""
        item.text += text
        if thinks:
            delta = self.event(
                "response.reasoning_summary_text.delta", **self._at(), summary_index=0, delta=text
            )
        else:
            item.logprobs += entries
            delta = self.event(
                "response.output_text.delta", **self._at(), content_index=0, delta=text, logprobs=entries
            )
        return [*found, delta]

    def _close(self, status: str) -> list[Event]:
        item = self._item
        if item is None:
            return []
        at = self._at()
        found: list[Event] = []
        if item.kind == "reasoning":
            found.append(
                self.event("response.reasoning_summary_text.done", **at, summary_index=0, text=item.text)
            )
        else:
            found.append(
                self.event(
                    "response.output_text.done", **at, content_index=0, text=item.text, logprobs=item.logprobs
                )
            )
            found.append(
                self.event("response.content_part.done", **at, content_index=0, part=item.part(item.text))
            )
        return [*found, *self._finish(item.value(status))]

    def _finish(self, value: dict[str, Any]) -> list[Event]:
        self._item = None
        self.output.append(value)
        return [self.event("response.output_item.done", output_index=len(self.output) - 1, item=value)]

    def _call(self, call: ToolCall) -> list[Event]:
        found: list[Event] = []
        if self._orderly or self._item is None or self._item.kind != "message":
            found += self._close("completed")
        else:
            self._left_open, self._item = self._item, None
        index = len(self.output)
        arguments = orjson.dumps(call.arguments).decode()
        value = {
            "id": f"fc_{number()}_{self._calls}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        self._calls += 1
        at = {"item_id": value["id"], "output_index": index}
        found.append(self.event("response.output_item.added", output_index=index, item=dict(value)))
        found.append(self.event("response.function_call_arguments.delta", **at, delta=arguments))
        found.append(
            self.event("response.function_call_arguments.done", **at, name=call.name, arguments=arguments)
        )
        return [*found, *self._finish(value | {"status": "completed", "arguments": arguments})]

    def _search(self, call: ToolCall) -> list[Event]:
        """A call of the server's own search, which fails."""
        found = self._close("completed")
        action = {"type": "search", "query": web_search.query_of(call.arguments)}
        item = {"id": f"ws_{number()}_{len(self.output)}", "type": "web_search_call", "action": action}
        at = {"item_id": item["id"], "output_index": len(self.output)}
        added = item | {"status": "in_progress"}
        found.append(self.event("response.output_item.added", output_index=len(self.output), item=added))
        found.append(self.event("response.web_search_call.in_progress", **at))
        found.append(self.event("response.web_search_call.searching", **at))
        return [*found, *self._finish(item | {"status": "failed"})]

    def failed(self, status: int, text: str) -> list[Event]:
        response = self.response("failed")
        response["error"] = {"code": "server_error", "message": text}
        return [self.event("response.failed", response=response)]


async def _stream(conversation: Conversation, writer: Writer) -> AsyncGenerator[Event, None]:
    async with aclosing(_replies(conversation)) as replies:
        begun = False
        async for reply in replies:
            if not begun:  # not before: until then a failure is a plain one
                begun = True
                for event in writer.begin():
                    yield event
            for event in writer.events(reply):
                yield event
            if reply.done_reason is not None:
                for event in writer.end(reply):
                    yield event
                response = writer.ended(reply, whole=False)
                yield writer.event(f"response.{response['status']}", response=response)


async def _replies(conversation: Conversation) -> AsyncGenerator[Reply, None]:
    if conversation.is_empty:
        await conversation.load()
        yield Reply(done_reason="stop", usage=Usage())
        return
    async with aclosing(conversation.replies()) as replies:
        async for reply in replies:
            yield reply


async def _collect(conversation: Conversation, writer: Writer) -> dict[str, Any]:
    response: dict[str, Any] = {}
    async with aclosing(_replies(conversation)) as replies:
        async for reply in replies:
            writer.events(reply)
            if reply.done_reason is not None:
                writer.end(reply)
                response = writer.ended(reply, whole=True)
    return response


async def responses(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, ResponsesRequest)
    if asked.background:
        raise RequestError("background responses are not supported: nothing is stored")
    if asked.previous_response_id or asked.conversation:
        raise RequestError("previous_response_id and conversation are not supported: nothing is stored")
    if asked.prompt is not None:
        raise RequestError("prompt templates are not supported: nothing is stored")
    messages = input_messages(asked)
    think = effort_think(asked.reasoning.effort if asked.reasoning is not None else "")
    tools = functions_of(asked.tools)
    if asked.stream:
        note_uncached()
    if not asked.model:
        raise RequiredError("model is required")
    model = await find_model(service.store, asked.model)
    wants = "message.output_text.logprobs" in asked.include
    count = logprob_count(wants, asked.top_logprobs)
    tool_choice = await choose(tools, asked.tool_choice, asked.parallel_tool_calls)
    text_format = None if asked.text is None else asked.text.format
    grammar = tool_choice.grammar or await response_format(text_format, "text.format")
    native = {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": asked.top_p,
        "num_predict": asked.max_output_tokens,
    }
    conversation = Conversation(
        service,
        Asked(
            model=model,
            options=merge_options(model.stored.parameters, native),
            messages=messages,
            tools=tool_choice.tools,
            think=think,
            grammar=grammar,
            forced=tool_choice.grammar is not None,
            logprobs=count,
            client=client_of(request, service.settings.api_keys),
            timing=timing,
        ),
    )
    of_openai = "X-Stainless-Lang" in request.headers
    agent = request.headers.get("User-Agent", "")
    orderly = not asked.stream or of_openai or any(name in agent for name in _ORDERLY_AGENTS)
    writer = Writer(asked, count > 0, of_openai, orderly)
    try:
        orjson.dumps(writer.response("in_progress"))
    except TypeError:
        raise RequestError("tools, tool_choice or text nest too deep to be repeated in a response") from None
    if asked.stream:
        return await stream_sse(request, _stream(conversation, writer), writer.failed)
    return json_response(await _collect(conversation, writer))
