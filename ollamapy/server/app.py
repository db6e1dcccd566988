"""The aiohttp application: routes, and the server that runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ollamapy import API_VERSION, __version__
from ollamapy.server.anthropic_messages import count_tokens, messages
from ollamapy.server.decode import BODIES, new_bodies
from ollamapy.server.metrics import metrics
from ollamapy.server.middleware import access, answer_errors, authorization, clean_path, grants
from ollamapy.server.native_blobs import add_blob, has_blob
from ollamapy.server.native_create import create
from ollamapy.server.native_embed import embed, embeddings
from ollamapy.server.native_generate import chat, generate
from ollamapy.server.native_models import copy, delete, ps, tags
from ollamapy.server.native_pull import pull, push
from ollamapy.server.native_show import show
from ollamapy.server.openai_chat import chat_completions
from ollamapy.server.openai_completions import completions
from ollamapy.server.openai_models import embeddings as openai_embeddings
from ollamapy.server.openai_models import list_models as openai_models
from ollamapy.server.openai_models import show_model as openai_model
from ollamapy.server.openai_responses import responses
from ollamapy.server.openapi import openapi
from ollamapy.server.service import Service
from ollamapy.server.settings import Settings
from ollamapy.server.streaming import json_response
from ollamapy.server.trace import identify, traced
from ollamapy.store.store import Store
from ollamapy.types import RequestError

_log = logging.getLogger("ollamapy")

_MAX_BODY = 1 << 30  # bytes of a JSON body: images come in base64
_GRACE = 5.0  # seconds that open connections get to end
_IDLE = 120.0  # seconds that a connection may take to send a request's headers, also between two requests
_LINGER = 1.0  # seconds for which the rest of a body is read that was refused, so that its sender reads why


class _Protocol(logging.LoggerAdapter):  # type: ignore[type-arg] # generic from Python 3.11 on
    """What aiohttp says about connections. Requests that are no HTTP are their senders' matter: their bytes and our
    trace would only fill the log."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if isinstance(kwargs.get("exc_info"), (HttpProcessingError, web.RequestPayloadError)):
            _log.debug("a request that is no HTTP")
        else:
            super().log(level, msg, *args, **kwargs)


Endpoint = Callable[[web.Request, Service], Awaitable[web.StreamResponse]]


async def _root(request: web.Request, service: Service) -> web.Response:
    return web.Response(text="Ollama is running", content_type="text/plain", charset="utf-8")


async def _version(request: web.Request, service: Service) -> web.Response:
    return json_response({"version": API_VERSION})


async def _status(request: web.Request, service: Service) -> web.Response:
    """Whether models of a cloud can be asked: there is none."""
    return json_response({"cloud": {"disabled": True, "source": "none"}})


ROUTES: list[tuple[str, str, Endpoint]] = [
    ("GET", "/", _root),
    ("HEAD", "/", _root),
    ("GET", "/api/version", _version),
    ("HEAD", "/api/version", _version),
    ("GET", "/api/status", _status),
    ("GET", "/metrics", metrics),
    ("GET", "/api/tags", tags),
    ("HEAD", "/api/tags", tags),
    ("POST", "/api/generate", generate),
    ("POST", "/api/chat", chat),
    ("POST", "/api/embed", embed),
    ("POST", "/api/embeddings", embeddings),
    ("POST", "/api/show", show),
    ("GET", "/api/ps", ps),
    ("POST", "/api/copy", copy),
    ("DELETE", "/api/delete", delete),
    ("POST", "/api/create", create),
    ("HEAD", "/api/blobs/{digest}", has_blob),
    ("POST", "/api/blobs/{digest}", add_blob),
    ("POST", "/api/pull", pull),
    ("POST", "/api/push", push),
    ("GET", "/openapi.json", openapi),
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/embeddings", openai_embeddings),
    ("GET", "/v1/models", openai_models),
    ("GET", "/v1/models/{id:.+}", openai_model),
    ("POST", "/v1/responses", responses),
    ("POST", "/v1/messages", messages),
    ("POST", "/v1/messages/count_tokens", count_tokens),
]


def create_app(service: Service) -> web.Application:
    """The application over a service, which outlives it."""
    middlewares: Any = [
        traced,
        clean_path,
        access(service.settings),
        authorization(service.settings),
        answer_errors,
    ]
    app = web.Application(middlewares=middlewares, client_max_size=_MAX_BODY)

    app[BODIES] = new_bodies()

    def bound(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            return await endpoint(request, service)

        return handler

    for method, path, endpoint in ROUTES:
        app.router.add_route(method, path, bound(endpoint))
    app.on_response_prepare.append(grants(service.settings))
    app.on_response_prepare.append(identify)
    return app


class PortTakenError(OSError):
    """Another program listens on our address."""


async def start(service: Service) -> web.AppRunner:
    """Listen on the settings' address. Raises PortTakenError, OSError.

    Handlers are cancelled when their client leaves, streaming or not.
    """
    address = service.settings.address
    runner = web.AppRunner(
        create_app(service),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_GRACE,
        keepalive_timeout=_IDLE,
        lingering_time=_LINGER,
        logger=_Protocol(logging.getLogger("aiohttp.server"), {}),
    )
    await runner.setup()
    host = address.host if address.host not in ("0.0.0.0", "::") else None
    site = web.TCPSite(runner, host, address.port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(await _port_taken(service.settings)) from None
        raise
    return runner


async def _port_taken(settings: Settings) -> str:
    """One line that says by what the address is taken and how to choose another."""
    address = settings.address
    holder = "another program"
    with contextlib.suppress(Exception):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address.host, address.port), 2)
        try:
            writer.write(b"GET /api/version HTTP/1.0\r\nHost: localhost\r\n\r\n")
            _, _, body = (await asyncio.wait_for(reader.read(65536), 2)).partition(b"\r\n\r\n")
            holder = f"an Ollama server, version {orjson.loads(body)['version']}"
        finally:
            writer.close()
    return (
        f"{address.text} is taken by {holder}; "
        f"stop it, or choose another address: OLLAMA_HOST=127.0.0.1:{address.port % 65535 + 1} ollamapy serve"
    )


def _make_key(service: Service) -> None:
    """The key for registries is made when a server first starts, as Ollama does. One that cannot be read
    matters only when a registry asks for it."""
    try:
        service.transfers.key()
    except (OSError, RequestError) as error:
        _log.warning("no key for registries: %s", error)


async def serve(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """Run the server until SIGTERM or SIGINT. Raises PortTakenError, OSError."""
    from ollamapy.engine.engine import Engine

    store = Store(settings.models)
    engine = Engine(
        settings.threads,
        max_sequences=settings.parallel,
        kv_memory=settings.kv_memory or None,
        kv_type=settings.kv_type,
        prefix_cache=settings.prefix_cache,
    )
    service = Service(settings, store, engine)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await service.engine.start()
    runner: web.AppRunner | None = None
    try:
        runner = await start(service)
        await asyncio.to_thread(store.tidy, settings.prune)
        await asyncio.to_thread(_make_key, service)
        gc.freeze()  # what is there now stays: the collector need not walk through it while tokens wait
        _log.info("listening on %s (version %s)", settings.address.text, __version__)
        if ready is not None:
            ready()
        await stopped.wait()
        _log.info("shutting down")
    finally:
        service.shut_down()
        if runner is not None:
            await runner.cleanup()
        await service.close()
