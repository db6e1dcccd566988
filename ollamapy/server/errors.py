"""From exceptions to status and text, with Ollama's status codes."""

from __future__ import annotations

import asyncio
import logging

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.server.trace import note_error
from ollamapy.types import EngineError, RequestError

_log = logging.getLogger("ollamapy")


class ServerError(RequestError):
    """A request that cannot be served for a reason of ours."""

    status = 500


class NotFoundError(RequestError):
    status = 404


class RequiredError(RequestError):
    """A field that has to be there."""


class UnsupportedError(RequestError):
    """Something that this server does not do."""

    status = 501


class TooLargeError(RequestError):
    status = 413


class OverloadedError(RequestError):
    status = 503


def describe(error: BaseException) -> tuple[int, str]:
    """Status and text that tell a client what went wrong; what is our fault is logged with its trace."""
    status, text = _described(error)
    # A template may complain in the words of a conversation, which have no place in a log.
    note_error(type(error).__name__ if isinstance(error, TemplateRenderError) else text)
    return status, text


def _described(error: BaseException) -> tuple[int, str]:
    if isinstance(error, RequestError):
        return error.status, str(error)
    if isinstance(error, EngineError):
        _log.error("the engine failed: %s", error)
        return 500, str(error)
    if isinstance(error, MemoryError):
        return 500, str(error) or "not enough memory"
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return 500, str(error) or "timed out"
    if isinstance(error, OSError):
        _log.error("%s", error)
        return 500, f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if isinstance(error, ValueError):  # a file or a template that is not what it claims to be
        _log.warning("%s: %s", type(error).__name__, error)
        return 500, str(error)
    _log.error("internal error", exc_info=error)
    return 500, f"internal error: {type(error).__name__}: {error}"
