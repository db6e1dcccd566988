"""The models of the store and of the memory: /api/tags, /api/ps, /api/copy, /api/delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ollamapy.prompt.gotemplate.formatting import quote
from ollamapy.server.decode import read_request
from ollamapy.server.encode import expiry, timestamp
from ollamapy.server.errors import NotFoundError, RequiredError
from ollamapy.server.models import ServedModel, details, served
from ollamapy.server.requests import CopyRequest, NamedRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response
from ollamapy.store.errors import InvalidNameError, ModelNotFoundError
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store, StoredModel
from ollamapy.types import RequestError


def _entry(stored: StoredModel, model: ServedModel | None) -> dict[str, Any]:
    shown, config = details(stored), stored.config
    lengths = (
        model.facts.listed_lengths if model is not None else (config.context_length, config.embedding_length)
    )
    for key, length in zip(("context_length", "embedding_length"), lengths, strict=True):
        if length:
            shown[key] = length
    remote = {"remote_model": config.remote_model, "remote_host": config.remote_host}
    return {
        "name": stored.name.short,
        "model": stored.name.short,
        **(remote if config.remote_host else {}),
        "modified_at": timestamp(int(stored.modified * 1e9)),
        "size": stored.manifest.size,
        "digest": stored.digest,
        "details": shown,
        "capabilities": model.capabilities if model is not None else config.capabilities or [],
    }


def list_models(store: Store) -> list[dict[str, Any]]:
    """Every model; one whose file cannot be read is listed without what the file would say. Blocks."""
    entries = []
    for stored in store.list():
        try:
            model = served(store, stored.name.short, stored.name)
        except (ValueError, OSError):
            model = None
        try:
            entries.append(_entry(stored, model))
        except ValueError:  # no readable configuration: not a model
            continue
    return entries


async def tags(request: web.Request, service: Service) -> web.Response:
    return json_response({"models": await asyncio.to_thread(list_models, service.store)})


async def ps(request: web.Request, service: Service) -> web.Response:
    """Every model in memory, as it was when it was last asked for: its name may mean another one by now."""
    entries = []
    for resident in service.residency.residents():
        wanted = resident.wanted
        entries.append(
            {
                "name": wanted.name,
                "model": wanted.name,
                "digest": wanted.digest,
                "details": wanted.details,
                "size": resident.model.nbytes,
                "size_vram": 0,
                "expires_at": expiry(resident.expires),
                "context_length": resident.num_ctx,
            }
        )
    return json_response({"models": entries})


def _named(text: str, role: str, parse: Callable[[str], ModelName] = ModelName.parse) -> ModelName:
    try:
        return parse(text)
    except InvalidNameError:
        raise RequestError(f"{role} {quote(text)} is invalid") from None


async def copy(request: web.Request, service: Service) -> web.Response:
    asked = await read_request(request, CopyRequest)
    source, destination = _named(asked.source, "source"), _named(asked.destination, "destination")
    try:
        await asyncio.shield(asyncio.to_thread(service.store.copy, source, destination))
    except ModelNotFoundError:
        raise NotFoundError(f"model {quote(asked.source)} not found") from None
    return web.Response()


async def delete(request: web.Request, service: Service) -> web.Response:
    asked = await read_request(request, NamedRequest)
    if not asked.model_name:
        raise RequiredError("model is required")
    name = _named(asked.model_name, "name", ModelName.parse_reference)
    try:
        await asyncio.shield(asyncio.to_thread(service.store.delete, name))
    except ModelNotFoundError:
        raise NotFoundError(f"model '{asked.model_name}' not found") from None
    await service.let_go_of_unnamed()
    return web.Response()
