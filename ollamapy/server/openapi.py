"""GET /openapi.json: what this server understands, in OpenAPI 3.1, made from the types that decode the requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from ollamapy import __version__
from ollamapy.server import requests as native
from ollamapy.server.anthropic_requests import CountTokensRequest, MessagesRequest
from ollamapy.server.dialect_errors import dialect_of
from ollamapy.server.openai_requests import (
    ChatCompletionRequest,
    CompletionRequest,
    OpenAIEmbeddingsRequest,
)
from ollamapy.server.openai_responses_input import ResponsesRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response

_PREFIX = "#/components/schemas/"
_NDJSON, _EVENTS = "application/x-ndjson", "text/event-stream"

# (method, path, summary, body, media type of its stream)
_OPERATIONS: list[tuple[str, str, str, type[msgspec.Struct] | None, str]] = [
    ("post", "/api/chat", "Answer a conversation", native.ChatRequest, _NDJSON),
    ("post", "/api/generate", "Answer a prompt", native.GenerateRequest, _NDJSON),
    ("post", "/api/embed", "Embed texts", native.EmbedRequest, ""),
    ("post", "/api/embeddings", "Embed one text (older)", native.EmbeddingsRequest, ""),
    ("get", "/api/tags", "List the models", None, ""),
    ("get", "/api/ps", "List the models in memory", None, ""),
    ("get", "/api/version", "The version of the API", None, ""),
    ("post", "/api/show", "Describe a model", native.ShowRequest, ""),
    ("post", "/api/copy", "Give a model another name", native.CopyRequest, ""),
    ("delete", "/api/delete", "Delete a model", native.NamedRequest, ""),
    ("post", "/api/create", "Make a model", native.CreateRequest, _NDJSON),
    ("post", "/api/pull", "Fetch a model", native.PullRequest, _NDJSON),
    ("post", "/v1/chat/completions", "Answer a conversation", ChatCompletionRequest, _EVENTS),
    ("post", "/v1/completions", "Continue prompts", CompletionRequest, _EVENTS),
    ("post", "/v1/embeddings", "Embed texts or tokens", OpenAIEmbeddingsRequest, ""),
    ("get", "/v1/models", "List the models", None, ""),
    ("get", "/v1/models/{id}", "Describe a model", None, ""),
    ("post", "/v1/responses", "Answer a conversation, without state", ResponsesRequest, _EVENTS),
    ("post", "/v1/messages", "Answer a conversation", MessagesRequest, _EVENTS),
    ("post", "/v1/messages/count_tokens", "Count a prompt's tokens", CountTokensRequest, ""),
]

_ERRORS: dict[str, dict[str, Any]] = {
    "native": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    "openai": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": "null"},
                    "code": {"type": ["string", "null"]},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
    "anthropic": {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                "required": ["type", "message"],
            },
            "request_id": {"type": "string"},
        },
        "required": ["type", "error", "request_id"],
    },
}


@cache
def description() -> dict[str, Any]:
    """The document."""
    bodies = [body for *_, body, _ in _OPERATIONS if body is not None]
    _, components = msgspec.json.schema_components(bodies, ref_template=_PREFIX + "{name}")
    schemas = {name: _open(schema) for name, schema in components.items()}
    for name, error in _ERRORS.items():
        schemas[f"{name}Error"] = error
    paths: dict[str, dict[str, Any]] = {}
    for method, path, summary, body, stream in _OPERATIONS:
        paths.setdefault(path, {})[method] = _operation(path, summary, body, stream)
    return {
        "openapi": "3.1.0",
        "info": {"title": "OllamaPy", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """A body whose fields may be null, which is to be absent."""
    fields: dict[str, Any] = dict(schema.get("properties", {}))
    if not fields.get("format", {"type": ""}).keys() - {"default"}:  # nearly anything: words say it better
        del fields["format"]
        schema = {**schema, "description": '`format`: "json", a JSON schema or a grammar; see docs/api.md'}
    return {**schema, "properties": {name: _nullable(field) for name, field in fields.items()}}


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    kind = field.get("type")
    if isinstance(kind, str) and kind != "null":
        return {**field, "type": [kind, "null"]}
    return field


def _operation(path: str, summary: str, body: type[msgspec.Struct] | None, stream: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if stream:
        content[stream] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": {"$ref": f"{_PREFIX}{dialect_of(path)}Error"}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {"description": "an error", "content": error},
        },
    }
    if body is not None:
        schema = {"$ref": _PREFIX + body.__name__}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{id}" in path:
        name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        operation["parameters"] = [name]
    return operation


async def openapi(request: web.Request, service: Service) -> web.Response:
    return json_response(description())
