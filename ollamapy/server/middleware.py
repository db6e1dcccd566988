"""What every request passes: who may ask, where Ollama redirects, and how errors become answers."""

from __future__ import annotations

import fnmatch
import html
import ipaddress
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from ollamapy.server.dialect_errors import dialect_of, error_answer, failure
from ollamapy.server.errors import TooLargeError
from ollamapy.server.keys import allowed, presented_key
from ollamapy.server.settings import Settings, origin_host

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,x-stainless-arch,"
    "x-stainless-async,x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,"
    "x-stainless-os,x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
# What Anthropic's client sends from a page besides; Ollama does not let it.
_ANTHROPIC_HEADERS = (
    ",x-api-key,anthropic-version,anthropic-beta,anthropic-dangerous-direct-browser-access,x-stainless-helper"
)
_MAX_AGE = "43200"  # seconds a browser may remember a preflight


_PREFLIGHT = {
    "Access-Control-Allow-Methods": _METHODS,
    "Access-Control-Allow-Headers": _HEADERS,
    "Access-Control-Max-Age": _MAX_AGE,
    "Vary": "Access-Control-Request-Headers",
}


def local_host(host: str) -> bool:
    """Whether a Host header names a machine of one's own: a public name would be a rebound DNS answer."""
    try:
        name = urlsplit("//" + host).hostname or ""
    except ValueError:
        return False
    if not name or name == "localhost" or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def allowed_origin(origin: str, patterns: tuple[str, ...]) -> bool:
    """Whether a page from origin may talk to us; `*` in a pattern stands for anything."""
    folded = origin.lower()
    return any(fnmatch.fnmatchcase(folded, _as_glob(pattern)) for pattern in patterns)


def _as_glob(pattern: str) -> str:
    return re.sub(r"([\[\]?])", r"[\1]", pattern.lower())


def access(settings: Settings) -> object:
    """A middleware that lets pass who may ask, by Host and Origin, and answers preflights."""
    host = settings.address.host
    listens_locally = host in ("localhost", "") or _is_loopback(host)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if listens_locally and not local_host(request.host):
            return web.Response(status=403)
        origin = request.headers.get("Origin")
        if origin is None or _same_origin(request, origin):
            return await handler(request)
        granted = allowed_origin(origin, settings.origins)
        if granted and request.method != "OPTIONS":
            return await handler(request)
        response = web.Response(status=204 if granted else 403, headers=_PREFLIGHT if granted else None)
        if granted and dialect_of(request.path) == "anthropic":
            response.headers["Access-Control-Allow-Headers"] += _ANTHROPIC_HEADERS
        if request.method == "OPTIONS" and (methods := allowed_methods(request.app, request.path)):
            response.headers["Allow"] = ", ".join(methods)
        return response

    return check


_OPEN_PATHS = ("/",)  # whether a server runs is no secret


def authorization(settings: Settings) -> object:
    """A middleware that asks for one of the API keys, where there are any."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        keys = settings.api_keys
        if not keys or request.path in _OPEN_PATHS or allowed(keys, presented_key(request.headers)):
            return await handler(request)
        return error_answer(
            dialect_of(request.path),
            401,
            "missing or invalid API key",
            "invalid_api_key",
            {"WWW-Authenticate": "Bearer"},
        )

    return check


def _same_origin(request: web.Request, origin: str) -> bool:
    return origin_host(origin) == request.host.lower()


def grants(settings: Settings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal handler that tells a browser that it may read: streams send their headers before a middleware
    could add any."""

    async def grant(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is None or _same_origin(request, origin) or not allowed_origin(origin, settings.origins):
            return
        if "*" in settings.origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers.setdefault("Vary", "Origin")

    return grant


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/plain", headers=headers)


def _redirect(request: web.Request, path: str) -> web.Response:
    """Go answers a GET with a link that nobody follows by hand."""
    status = 301 if request.method == "GET" and "//" not in request.path else 307
    target = path + (f"?{request.query_string}" if request.query_string else "")
    headers = {"Location": target}
    if request.method != "GET":
        return web.Response(status=status, headers=headers)
    words = "Moved Permanently" if status == 301 else "Temporary Redirect"
    body = f'<a href="{html.escape(target)}">{words}</a>.\n\n'
    return web.Response(status=status, text=body, content_type="text/html", headers=headers)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the native dialect; unknown paths and methods as plain text."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        path = request.path
        clean = "/" + "/".join(part for part in path.split("/") if part)
        if clean != path and allowed_methods(request.app, clean):
            return _redirect(request, clean)
        return _plain(404, "404 page not found")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return _plain(405, "405 method not allowed", {"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return failure(request.path, TooLargeError("request body too large"))
    except web.HTTPException:
        raise
    except Exception as error:
        return failure(request.path, error)


def allowed_methods(app: web.Application, path: str) -> list[str]:
    """The methods of a path, none for one that does not exist."""
    routes = [r for r in app.router.routes() if r.resource is not None and r.resource.canonical == path]
    return sorted({route.method for route in routes})
