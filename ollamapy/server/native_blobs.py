"""HEAD and POST /api/blobs/{digest}: files on their way into the store."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from aiohttp import web

from ollamapy.server.bodies import chunks
from ollamapy.server.errors import NotFoundError
from ollamapy.server.service import Service
from ollamapy.store.names import parse_digest
from ollamapy.types import RequestError

_BLOCK = 1 << 20  # bytes handed to a thread at a time


async def has_blob(request: web.Request, service: Service) -> web.Response:
    digest = parse_digest(request.match_info["digest"])
    if not service.store.blobs.has(digest):
        raise NotFoundError(f'blob "{digest}" not found')
    return web.Response(status=200)


async def add_blob(request: web.Request, service: Service) -> web.Response:
    """Receive a blob. Content of another digest is stored under its own, and refused."""
    digest = parse_digest(request.match_info["digest"])
    if service.store.blobs.has(digest):
        return web.Response(status=200)
    writer = await asyncio.to_thread(service.store.blobs.writer)
    try:
        pending = bytearray()
        async with aclosing(chunks(request)) as pieces:
            async for chunk in pieces:
                pending += chunk
                if len(pending) >= _BLOCK:
                    await service.write(writer.write, bytes(pending))
                    pending.clear()
        await service.write(writer.write, bytes(pending))
        found = await asyncio.shield(service.write(writer.commit))
    finally:
        await asyncio.shield(service.write(writer.close))
    if found != digest:
        raise RequestError(f'digest mismatch, expected "{digest}", got "{found}"')
    return web.Response(status=201)
