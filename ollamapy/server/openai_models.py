"""GET /v1/models and /v1/models/{id}; POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from aiohttp import web

from ollamapy.server.decode import read_request
from ollamapy.server.errors import NotFoundError
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.native_embed import embedding_tokens, shortened
from ollamapy.server.openai_requests import OpenAIEmbeddingsRequest
from ollamapy.server.options import merge_options
from ollamapy.server.service import Service, Timing
from ollamapy.server.streaming import json_response
from ollamapy.server.trace import note_usage
from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.names import ModelName
from ollamapy.store.store import StoredModel
from ollamapy.types import RequestError, Usage


def _entry(stored: StoredModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(stored.modified),
        "owned_by": stored.name.namespace,
    }


async def list_models(request: web.Request, service: Service) -> web.Response:
    stored = await asyncio.to_thread(lambda: list(service.store.list()))
    return json_response({"object": "list", "data": [_entry(model, model.name.short) for model in stored]})


async def show_model(request: web.Request, service: Service) -> web.Response:
    asked = request.match_info["id"]
    name = ModelName.parse(asked)
    try:
        stored = await asyncio.to_thread(service.store.get, name)
    except ModelNotFoundError:
        raise NotFoundError(f"model '{name.short}' not found") from None
    return json_response(_entry(stored, asked))


def _inputs(value: Any) -> list[str | list[int]]:
    """`input`: a text, token ids, or a list of either. Raises RequestError."""
    if value is None or value == []:
        raise RequestError("invalid input")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(_is_token(item) for item in value):
            return [value]
        if all(isinstance(item, str) or (isinstance(item, list) and item) for item in value) and all(
            _is_token(token) for item in value if isinstance(item, list) for token in item
        ):
            return value
    raise RequestError("invalid input")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


async def embeddings(request: web.Request, service: Service) -> web.Response:
    asked = await read_request(request, OpenAIEmbeddingsRequest)
    encoding = asked.encoding_format.lower()
    if encoding not in ("", "float", "base64"):
        raise RequestError(
            f"Invalid value for 'encoding_format' = {asked.encoding_format}. Supported values: ['float', 'base64']."
        )
    inputs = _inputs(asked.input)
    try:
        model = await find_model(service.store, asked.model)
    except NotFoundError:
        if not asked.model:
            raise
        raise NotFoundError(f'model "{asked.model}" not found, try pulling it first') from None
    options = merge_options(model.stored.parameters, {})
    async with service.resident(model, None, options, Timing()) as loaded:
        if not loaded.can_embed:
            raise RequestError(f'"{asked.model}" does not support embeddings')
        limit = service.window(loaded, options)
        tokens = [
            await embedding_tokens(loaded, item, limit, True) if isinstance(item, str) else item[:limit]
            for item in inputs
        ]
        count = sum(map(len, tokens))
        note_usage(Usage(prompt_tokens=count))
        vectors = shortened(
            await loaded.embed(tokens, client_of(request, service.settings.api_keys)), asked.dimensions
        )
    data = [
        {
            "object": "embedding",
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
            if encoding == "base64"
            else row,
            "index": i,
        }
        for i, row in enumerate(np.ascontiguousarray(vectors))
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return json_response({"object": "list", "data": data, "model": asked.model, "usage": usage})
