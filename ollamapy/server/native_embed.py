"""POST /api/embed and /api/embeddings: one vector of length 1 per text."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from ollamapy.server.decode import read_request
from ollamapy.server.errors import NotFoundError, RequiredError, ServerError
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.options import Options, merge_options
from ollamapy.server.requests import EmbeddingsRequest, EmbedRequest
from ollamapy.server.service import Service, Timing, tokenize
from ollamapy.server.streaming import json_response
from ollamapy.server.trace import note_usage
from ollamapy.store.names import ModelName
from ollamapy.types import ContextLengthError, RequestError, Usage

if TYPE_CHECKING:
    from ollamapy.engine.protocol import LoadedModel


_TOO_LONG = "the input length exceeds the context length"


def texts_of(value: Any) -> list[str]:
    """`input` as a list: a text, a list of texts, or nothing. Raises RequestError."""
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise RequestError("invalid input type")


async def embedding_tokens(model: LoadedModel, text: str, limit: int, truncate: bool) -> list[int]:
    """The tokens of a text, cut to limit with the special tokens around it kept. Raises ContextLengthError."""
    await asyncio.sleep(0)  # short texts are tokenized on the event loop, and there may be thousands
    tokens = await tokenize(model, text)
    if len(tokens) <= limit:
        return tokens
    tokenizer = model.tokenizer
    opened, closed = tokenizer.is_control(tokens[0]), tokenizer.is_control(tokens[-1])
    if limit <= opened + closed:
        raise ContextLengthError("input after truncation exceeds maximum context length")
    if not truncate:
        raise ContextLengthError(_TOO_LONG)
    return [*tokens[: limit - closed], *tokens[len(tokens) - closed :]]


def context_limit(options: Options, default: int, most: int) -> int:
    """How many tokens a text is cut to. A num_ctx below 1 is no such length, as in Ollama."""
    if options.num_ctx is None:
        return min(default, most)
    return min(options.num_ctx, most) if options.num_ctx > 0 else most


def shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first dimensions of each row, of length 1 again; a count that makes no sense changes nothing."""
    if not 0 < dimensions < vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.ascontiguousarray(cut / np.maximum(norms, 1e-12), dtype=np.float32)


async def embed(request: web.Request, service: Service) -> web.Response:
    timing = Timing()
    asked = await read_request(request, EmbedRequest)
    if not asked.model:
        raise NotFoundError("model '' not found")
    ModelName.parse_reference(asked.model)
    texts = texts_of(asked.input)
    vectors, count = await _vectors(
        service, asked, texts, timing, client_of(request, service.settings.api_keys)
    )
    if vectors is None:
        return json_response({"model": asked.model, "embeddings": []})
    return json_response(
        {
            "model": asked.model,
            "embeddings": shortened(vectors, asked.dimensions),
            "total_duration": timing.total,
            "load_duration": timing.load,
            "prompt_eval_count": count,
        }
    )


async def embeddings(request: web.Request, service: Service) -> web.Response:
    """The older endpoint: one prompt, one vector."""
    asked = await read_request(request, EmbeddingsRequest)
    if not asked.model:
        raise RequiredError("model is required")
    wanted = EmbedRequest(
        model=asked.model, keep_alive=asked.keep_alive, options=asked.options, truncate=False
    )
    try:
        texts = [asked.prompt] if asked.prompt else []
        vectors, _ = await _vectors(
            service, wanted, texts, Timing(), client_of(request, service.settings.api_keys)
        )
    except ContextLengthError:
        raise ServerError(_TOO_LONG) from None
    return json_response({"embedding": [] if vectors is None else vectors[0]})


async def _vectors(
    service: Service, asked: EmbedRequest, texts: list[str], timing: Timing, client: str
) -> tuple[NDArray[np.float32] | None, int]:
    """One row per text, None without texts, and how many tokens the texts were."""
    try:
        model = await find_model(service.store, asked.model)
    except NotFoundError:
        raise NotFoundError(f'model "{asked.model}" not found, try pulling it first') from None
    options = merge_options(model.stored.parameters, asked.options)
    async with service.resident(model, asked.keep_alive, options, timing) as loaded:
        if not texts:
            return None, 0
        if not loaded.can_embed:
            raise RequestError(f'"{asked.model}" does not support embeddings')
        limit = context_limit(options, service.settings.context_length, loaded.context_length)
        inputs = [await embedding_tokens(loaded, text, limit, asked.truncate) for text in texts]
        if max(map(len, inputs)) > service.window(loaded, options):
            cut = "input exceeds maximum context length and cannot be truncated further"
            raise ContextLengthError(cut if asked.truncate else _TOO_LONG)
        count = sum(map(len, inputs))
        note_usage(Usage(prompt_tokens=count))
        return await loaded.embed(inputs, client), count
