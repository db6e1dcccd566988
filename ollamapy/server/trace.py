"""What is remembered of a request while it is answered, for the line that the log gets when it has ended.

A request's id is what its client sent as X-Request-Id, if that is well-formed, or a new one; the answer carries it in
the same header. The trace is found through a context variable, so that nothing has to hand it on.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from ollamapy.types import Usage

HEADER = "X-Request-Id"
CLIENT_LEFT = 499  # the status that is logged when the client left before it got one

_WELL_FORMED = re.compile(r"[A-Za-z0-9_.:+/=@-]{1,128}")
_LONGEST = 200  # characters of a value that a client chose

_log = logging.getLogger("ollamapy.request")
_current: ContextVar[Trace | None] = ContextVar("ollamapy.trace", default=None)


@dataclass(slots=True)
class Trace:
    """One request. Times are nanoseconds."""

    id: str
    method: str
    path: str
    started: int = field(default_factory=time.monotonic_ns)
    model: str = ""
    load: int = 0  # waiting for the model
    usages: list[Usage] = field(default_factory=list)  # of its generations, kept up to date by the engine
    end: str = ""
    error: str = ""
    uncached: bool = False  # the answer says that it is not to be kept

    def headers(self) -> dict[str, str]:
        """What the answer's headers say of the request."""
        return {HEADER: self.id} | ({"Cache-Control": "no-cache"} if self.uncached else {})

    def fields(self, status: int) -> dict[str, Any]:
        """The line's fields. Those of generations stand there only if there were any."""
        found: dict[str, Any] = {"method": self.method, "path": self.path[:_LONGEST], "status": status}
        if self.model:
            found["model"] = self.model[:_LONGEST]
            found["load_ms"] = _milliseconds(self.load)
        if self.usages:
            found["prompt_tokens"] = sum(usage.prompt_tokens for usage in self.usages)
            found["cached_tokens"] = sum(usage.cached_tokens for usage in self.usages)
            found["eval_tokens"] = sum(usage.completion_tokens for usage in self.usages)
            found["queue_ms"] = _milliseconds(max(usage.queue_ns for usage in self.usages))
            first = min((usage.first_token for usage in self.usages if usage.first_token), default=None)
            if first is not None:
                found["ttft_ms"] = _milliseconds(max(0, int(first * 1e9) - self.started))
        found["total_ms"] = _milliseconds(time.monotonic_ns() - self.started)
        found["end"] = self.end or ("error" if status >= 400 else "done")
        if self.error:
            found["error"] = self.error[:_LONGEST]
        return found


def current() -> Trace | None:
    """The trace of the request that is being answered here."""
    return _current.get()


def request_id(headers: Mapping[str, str]) -> str:
    """The id that a request brings, or a new one."""
    given = headers.get(HEADER, "")
    return given if _WELL_FORMED.fullmatch(given) else "req_" + secrets.token_hex(12)


def note_model(model: str) -> Trace | None:
    trace = current()
    if trace is not None:
        trace.model = model
    return trace


def note_usage(usage: Usage) -> None:
    """A generation has begun whose cost usage will tell."""
    trace = current()
    if trace is not None:
        trace.usages.append(usage)


def note_end(reason: str) -> None:
    """How the answer ended."""
    trace = current()
    if trace is not None:
        trace.end = reason


def note_error(text: str) -> None:
    trace = current()
    if trace is not None:
        trace.end, trace.error = "error", text


def note_uncached() -> None:
    """Whatever is answered now is not to be kept, as Ollama says of the streams of some dialects."""
    trace = current()
    if trace is not None:
        trace.uncached = True


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: an id for every request, a line in the log for each that has ended."""
    trace = Trace(request_id(request.headers), request.method, request.path)
    token = _current.set(trace)
    status = CLIENT_LEFT
    try:
        response = await handler(request)
        status = response.status
        if not response.prepared:
            response.headers.update(trace.headers())
        return response
    except web.HTTPException as error:
        status = error.status
        error.headers.update(trace.headers())
        raise
    except BaseException:  # the client left: nothing else passes the middlewares below
        trace.end = "disconnect"
        raise
    finally:
        level = logging.ERROR if status >= 500 else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra={"fields": trace.fields(status)})
        _current.reset(token)


async def identify(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler that names the request in the headers of a stream, which leave before it has ended."""
    trace = current()
    if trace is not None:
        response.headers.update(trace.headers())


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 1)
