"""GET /api/tags: the models of the store."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from ollamapy.server.encode import timestamp
from ollamapy.server.models import ServedModel, served
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response
from ollamapy.store.store import Store, StoredModel


def details(stored: StoredModel) -> dict[str, Any]:
    """What the configuration says about a model."""
    config = stored.config
    return {
        "parent_model": config.parent_model,
        "format": config.model_format,
        "family": config.model_family,
        "families": config.model_families,
        "parameter_size": config.model_type,
        "quantization_level": config.file_type,
    }


def _entry(stored: StoredModel, model: ServedModel | None) -> dict[str, Any]:
    shown = details(stored)
    if model is not None:
        shown["context_length"] = model.facts.context_length
        shown["embedding_length"] = model.facts.embedding_length
    return {
        "name": stored.name.short,
        "model": stored.name.short,
        "modified_at": timestamp(int(stored.modified * 1e9)),
        "size": stored.manifest.size,
        "digest": stored.digest,
        "details": shown,
        "capabilities": model.capabilities if model is not None else [],
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
