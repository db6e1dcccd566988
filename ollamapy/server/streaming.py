"""Answers in events: NDJSON lines as they come, or one JSON body of all of them.

A failure before the first event is a plain error with its status. After it the status is out: the last line
is `{"error": …}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from aiohttp import HttpVersion11, web

from ollamapy.server.errors import describe

Event = dict[str, Any]

_CLOSED = (ConnectionResetError, ConnectionError)
_AT_ONCE = 1 << 14  # bytes that fit into a transport's empty buffer
STALLED = 600.0  # seconds after which a client that reads nothing is cut off (a pager may stand still)


class Stream:
    """An answer that is written as it comes."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self.response = response
        self._request = request
        self._begun = False  # aiohttp sends the headers with what is written first

    @classmethod
    async def begin(cls, request: web.Request, content_type: str) -> Stream:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        if request.version == HttpVersion11:
            response.enable_chunked_encoding()
        await response.prepare(request)
        return cls(request, response)

    async def write(self, data: bytes) -> None:
        """Write to a client that may not read: what does not leave in time ends the connection."""
        response, transport = self.response, self._request.transport
        if (
            self._begun
            and transport is not None
            and len(data) < _AT_ONCE
            and transport.get_write_buffer_size() == 0
            and response.chunked
            and not transport.is_closing()
        ):
            # Nothing to wait for: the client has taken all there was. Every token of every stream comes by here, on
            # a core that could compute meanwhile: a chunk is written as it is.
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self._begun = True

        def cut() -> None:
            if self._request.transport is not None:
                self._request.transport.abort()

        watch = asyncio.get_running_loop().call_later(STALLED, cut)
        try:
            await response.write(data)
        finally:
            watch.cancel()

    async def end(self) -> web.StreamResponse:
        await self.response.write_eof()
        return self.response


def encode_json(value: object) -> bytes:
    """JSON on one line for every client. Some read the lines of a stream as `str.splitlines` does (httpx's
    `iter_lines`, and so ollama-python), for which a line also ends at U+0085, U+2028 and U+2029."""
    data = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=encode_json(value), content_type="application/json", charset="utf-8"
    )


async def stream_events(request: web.Request, events: AsyncGenerator[Event, None]) -> web.StreamResponse:
    """Write events as NDJSON. Whatever happens, the generator is closed: leaving clients free their work."""
    try:
        try:
            first = await anext(aiter(events))
        except StopAsyncIteration:
            raise RuntimeError("a stream without events") from None
        stream = await Stream.begin(request, "application/x-ndjson")
        try:
            await stream.write(encode_json(first) + b"\n")
            async for event in events:
                await stream.write(encode_json(event) + b"\n")
        except _CLOSED:
            raise
        except Exception as error:
            _, text = describe(error)
            await stream.write(encode_json({"error": text}) + b"\n")
        return await stream.end()
    except _CLOSED as error:
        # nobody reads any more: end the handler as aiohttp ends it when it notices first
        raise asyncio.CancelledError from error
    finally:
        await events.aclose()


async def last_status(events: AsyncGenerator[Event, None]) -> Event:
    """Runs a stream of progress to its end and returns the last event."""
    last: Event = {}
    try:
        async for event in events:
            last = event
    finally:
        await events.aclose()
    return last
