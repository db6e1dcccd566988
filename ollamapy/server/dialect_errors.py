"""Errors in the shape of the dialect that a path belongs to: Ollama's under /api, Anthropic's under /v1/messages,
OpenAI's under /v1."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Literal

from aiohttp import web

from ollamapy.server.errors import describe
from ollamapy.server.streaming import encode_json
from ollamapy.server.trace import current

Dialect = Literal["native", "openai", "anthropic"]

_OPENAI_TYPES = {404: "not_found_error", 401: "authentication_error", 413: "invalid_request_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def dialect_of(path: str) -> Dialect:
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "native"


def error_value(dialect: Dialect, status: int, text: str, code: str | None = None) -> dict[str, Any]:
    """The body of an error. code: what OpenAI's clients tell errors of one status apart by."""
    text = text.encode("utf-8", "replace").decode()
    if dialect == "native":
        return {"error": text}
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        error = {"type": kind, "message": text}
        trace = current()
        request_id = "req_" + secrets.token_hex(12) if trace is None else trace.id
        return {"type": "error", "error": error, "request_id": request_id}
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status == 400 else "api_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def error_answer(
    dialect: Dialect,
    status: int,
    text: str,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    value = error_value(dialect, status, text, code)
    response = web.Response(
        status=status,
        body=encode_json(value),
        content_type="application/json",
        charset="utf-8",
        headers=headers,
    )
    if dialect == "anthropic":
        response.headers["request-id"] = value["request_id"]
    return response


def failure(path: str, error: BaseException) -> web.Response:
    """What a request to path is answered when it fails before anything was sent."""
    status, text = describe(error)
    dialect = dialect_of(path)
    if dialect != "native" and text == "missing request body":
        text = "EOF"
    return error_answer(dialect, status, text)
