"""Reads the bytes of request bodies from clients that may be slow, silent, or lie."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from aiohttp import web

from ollamapy.server.errors import OverloadedError
from ollamapy.types import RequestError

SILENCE = 60.0  # seconds without a byte
_GRACE = 60.0  # seconds that any body may take
_SLOWEST = 1024  # bytes per second beyond that: a drip keeps a connection from nobody
_SMALL = 1 << 20  # bytes of a body that are not counted


class BodyError(RequestError):
    """A body that cannot be read: not what its headers say, no JSON, or not of the request's type."""


class SlowBodyError(RequestError):
    """A body that did not come."""

    status = 408


class Bodies:
    """The bodies that are in memory at a time: `most` bytes of large ones in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """A whole body, counted while the context is open.

        Raises HTTPRequestEntityTooLarge, BodyError, SlowBodyError, OverloadedError when others hold too much.
        """
        limit = request.client_max_size
        if request.content_length is not None and request.content_length > limit:
            raise web.HTTPRequestEntityTooLarge(limit, request.content_length)
        data = bytearray()
        held = 0
        try:
            async with contextlib.aclosing(chunks(request)) as pieces:
                async for chunk in pieces:
                    data += chunk
                    if len(data) > limit:
                        raise web.HTTPRequestEntityTooLarge(limit, len(data))
                    if len(data) > _SMALL:
                        self._held += len(data) - held
                        held = len(data)
                        if self._held > self._most:
                            raise OverloadedError("server busy: the bodies of other requests fill its memory")
            yield bytes(data)
        finally:
            self._held -= held


async def chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """A body as it comes. Raises BodyError for one that its headers misdescribe, SlowBodyError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GRACE
    while True:
        left = min(SILENCE, deadline - loop.time())
        try:
            chunk = await asyncio.wait_for(request.content.readany(), max(left, 0.0))
        except (asyncio.TimeoutError, TimeoutError):
            raise SlowBodyError("the body did not come in time") from None
        except web.RequestPayloadError as error:
            words = " ".join(str(error).removeprefix("400, message:").split())
            raise BodyError(f"the body cannot be read: {words}") from None
        if not chunk:
            return
        deadline += len(chunk) / _SLOWEST
        yield chunk
