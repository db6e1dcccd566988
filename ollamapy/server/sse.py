"""Answers as server-sent events, for the dialects of OpenAI and Anthropic.

A failure before the first event is a plain error with its status; after it, the dialect says what ends the
stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ollamapy.server.errors import describe
from ollamapy.server.streaming import Stream, encode_json

_CLOSED = (ConnectionResetError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. data is written as JSON, a str as it is."""

    data: dict[str, Any] | str
    name: str | None = None

    def encode(self) -> bytes:
        data = self.data.encode() if isinstance(self.data, str) else encode_json(self.data)
        head = b"" if self.name is None else b"event: " + self.name.encode() + b"\n"
        return head + b"data: " + data + b"\n\n"


Failed = Callable[[int, str], list[Event]]
"""the events that end a stream which fails, from status and text"""


async def stream_sse(
    request: web.Request,
    events: AsyncGenerator[Event, None],
    failed: Failed,
) -> web.StreamResponse:
    """Write events. Whatever happens, the generator is closed: leaving clients free their work."""
    try:
        first = await anext(aiter(events))
        stream = await Stream.begin(request, "text/event-stream")
        try:
            await stream.write(first.encode())
            async for event in events:
                await stream.write(event.encode())
        except _CLOSED:
            raise
        except Exception as error:
            for event in failed(*describe(error)):
                await stream.write(event.encode())
        return await stream.end()
    except _CLOSED as error:
        # nobody reads any more: end the handler as aiohttp ends it when it notices first
        raise asyncio.CancelledError from error
    finally:
        await events.aclose()
