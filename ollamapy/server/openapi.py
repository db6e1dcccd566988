"""GET /openapi.json: what this server understands, in OpenAPI 3.1, made from the types that decode the requests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from ollamapy import __version__
from ollamapy.server import requests as native
from ollamapy.server.anthropic_requests import CountTokensRequest, MessagesRequest
from ollamapy.server.checks import MOST_LOGPROBS
from ollamapy.server.dialect_errors import dialect_of
from ollamapy.server.openai_requests import (
    MOST_CHOICES,
    ChatCompletionRequest,
    CompletionRequest,
    OpenAIEmbeddingsRequest,
)
from ollamapy.server.openai_responses_input import ResponsesRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response

_PREFIX = "#/components/schemas/"
_JSON, _NDJSON, _EVENTS, _TEXT = "application/json", "application/x-ndjson", "text/event-stream", "text/plain"

_REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ChatRequest", "GenerateRequest", "EmbedRequest", "EmbeddingsRequest"), ("model",)),
    "CopyRequest": ("source", "destination"),
    **dict.fromkeys(("ChatCompletionRequest", "CountTokensRequest"), ("model", "messages")),
    **dict.fromkeys(("CompletionRequest", "ResponsesRequest"), ("model",)),
    "OpenAIEmbeddingsRequest": ("model", "input"),
    "MessagesRequest": ("model", "max_tokens", "messages"),
}
_BOUNDS: dict[str, dict[str, Any]] = {
    "n": {"minimum": 1, "maximum": MOST_CHOICES},
    "best_of": {"minimum": 1, "maximum": MOST_CHOICES},
    "top_logprobs": {"minimum": 0, "maximum": MOST_LOGPROBS},
    "CompletionRequest.logprobs": {"maximum": MOST_LOGPROBS},
    "MessagesRequest.max_tokens": {"minimum": 1},
    **{f"{name}.messages": {"minItems": 1} for name, wanted in _REQUIRED.items() if "messages" in wanted},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """A route and what it does. stream: the media type of its answer as a stream, if it has one."""

    method: str
    path: str
    summary: str
    body: type[msgspec.Struct] | None = None
    stream: str = ""
    answer: str = _JSON  # the media type of a whole answer; empty: it has no content


OPERATIONS = (
    Operation("get", "/", "Whether the server runs", answer=_TEXT),
    Operation("head", "/", "Whether the server runs", answer=""),
    Operation("post", "/api/chat", "Answer a conversation", native.ChatRequest, _NDJSON),
    Operation("post", "/api/generate", "Answer a prompt", native.GenerateRequest, _NDJSON),
    Operation("post", "/api/embed", "Embed texts", native.EmbedRequest),
    Operation("post", "/api/embeddings", "Embed one text (older)", native.EmbeddingsRequest),
    Operation("get", "/api/tags", "List the models"),
    Operation("head", "/api/tags", "List the models", answer=""),
    Operation("get", "/api/ps", "List the models in memory"),
    Operation("get", "/api/version", "The version of the API"),
    Operation("head", "/api/version", "The version of the API", answer=""),
    Operation("get", "/api/status", "Whether models of a cloud can be asked"),
    Operation("post", "/api/show", "Describe a model", native.ShowRequest),
    Operation("post", "/api/copy", "Give a model another name", native.CopyRequest, answer=""),
    Operation("delete", "/api/delete", "Delete a model", native.NamedRequest, answer=""),
    Operation("post", "/api/create", "Make a model", native.CreateRequest, _NDJSON),
    Operation("head", "/api/blobs/{digest}", "Whether the store has a file", answer=""),
    Operation("post", "/api/blobs/{digest}", "Upload a file", answer=""),
    Operation("post", "/api/pull", "Fetch a model", native.TransferRequest, _NDJSON),
    Operation("post", "/api/push", "Upload a model to its registry", native.TransferRequest, _NDJSON),
    Operation("post", "/v1/chat/completions", "Answer a conversation", ChatCompletionRequest, _EVENTS),
    Operation("post", "/v1/completions", "Continue prompts", CompletionRequest, _EVENTS),
    Operation("post", "/v1/embeddings", "Embed texts or tokens", OpenAIEmbeddingsRequest),
    Operation("get", "/v1/models", "List the models"),
    Operation("get", "/v1/models/{id}", "Describe a model"),
    Operation("post", "/v1/responses", "Answer a conversation, without state", ResponsesRequest, _EVENTS),
    Operation("post", "/v1/messages", "Answer a conversation", MessagesRequest, _EVENTS),
    Operation("post", "/v1/messages/count_tokens", "Count a prompt's tokens", CountTokensRequest),
    Operation("get", "/openapi.json", "This description"),
    Operation("get", "/metrics", "Counters in Prometheus' text format", answer=_TEXT),
)


def _one_of(*kinds: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(kinds)}


_STRING, _OBJECT, _TOKENS = (
    {"type": "string"},
    {"type": "object"},
    {"type": "array", "items": {"type": "integer"}},
)
_STRINGS, _OBJECTS = {"type": "array", "items": _STRING}, {"type": "array", "items": _OBJECT}

# The fields of several types, which the structs leave open and who uses them checks.
_SHAPES: dict[str, dict[str, Any]] = {
    "format": {
        **_one_of({"enum": ["", "json"]}, _OBJECT),
        "description": '"json", a JSON schema, or a grammar: {"type": "grammar", "syntax": "regex" or "lark", '
        '"definition": text}',
    },
    "keep_alive": _one_of({"type": "number"}, _STRING),
    "think": _one_of({"type": "boolean"}, {"enum": ["low", "medium", "high", "max"]}),
    "license": _one_of(_STRING, _STRINGS),
    "stop": _one_of(_STRING, _STRINGS),
    "content": _one_of(_STRING, _OBJECTS),
    "system": _one_of(_STRING, _OBJECTS),
    "tool_choice": _one_of(_STRING, _OBJECT),
    "response_format": _OBJECT,
    "conversation": _one_of(_STRING, _OBJECT),
    "prompt": _one_of(_STRING, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}),
    "EmbedRequest.input": _one_of(_STRING, _STRINGS),
    "OpenAIEmbeddingsRequest.input": _one_of(_STRING, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}),
    "ResponsesRequest.input": _one_of(_STRING, _OBJECTS),
}

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
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, components = msgspec.json.schema_components(bodies, ref_template=_PREFIX + "{name}")
    schemas = {name: _open(name, schema) for name, schema in components.items()}
    for name, error in _ERRORS.items():
        schemas[f"{name}Error"] = error
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "OllamaPy", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _open(struct: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A body. Its fields may be null, which is to be absent, unless they are required."""
    required = _REQUIRED.get(struct, ())
    fields = {}
    for name, field in schema.get("properties", {}).items():
        shape = field if field.keys() - {"default"} else {**_of(_SHAPES, struct, name), **field}
        shape = {**shape, **_of(_BOUNDS, struct, name)}
        if name in required:
            shape.pop("default", None)
        fields[name] = shape if name in required else _nullable(shape)
    return {**schema, "properties": fields, "required": list(required)}


def _of(table: dict[str, dict[str, Any]], struct: str, field: str) -> dict[str, Any]:
    return table.get(f"{struct}.{field}") or table.get(field) or {}


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    kind = field.get("type")
    if isinstance(kind, str) and kind != "null":
        return {**field, "type": [kind, "null"]}
    choices = field.get("anyOf")
    if choices is not None and {"type": "null"} not in choices:
        return {**field, "anyOf": [*choices, {"type": "null"}]}
    return field


def _described(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer:
        content[operation.answer] = {"schema": _OBJECT if operation.answer == _JSON else _STRING}
    if operation.stream:
        content[operation.stream] = {"schema": _STRING}
    error = {_JSON: {"schema": {"$ref": f"{_PREFIX}{dialect_of(operation.path)}Error"}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "the answer", **({"content": content} if content else {})},
            "default": {"description": "an error", "content": error},
        },
    }
    if operation.body is not None:
        schema = {"$ref": _PREFIX + operation.body.__name__}
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema}}}
    elif operation.method == "post":
        schema = {"type": "string", "format": "binary"}
        described["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": schema}},
        }
        described["responses"]["201"] = {"description": "the file is stored"}
    if named := re.search(r"{(\w+)}", operation.path):
        name = {
            "name": named[1],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        described["parameters"] = [name]
    return described


async def openapi(request: web.Request, service: Service) -> web.Response:
    return json_response(description())
