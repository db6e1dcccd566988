"""What every request passes: who may ask, where Ollama redirects, and how errors become answers."""

from __future__ import annotations

import fnmatch
import html
import ipaddress
import posixpath
import re
import socket
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_urldispatcher import AbstractResource
from multidict import CIMultiDict

from ollamapy.server.dialect_errors import dialect_of, error_answer, failure
from ollamapy.server.errors import TooLargeError
from ollamapy.server.keys import allowed, presented_key
from ollamapy.server.settings import Settings

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_PRIVATE = tuple(
    ipaddress.ip_network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_MAX_AGE = "43200"  # seconds a browser may remember a preflight


_PREFLIGHT = (
    ("Access-Control-Allow-Headers", _HEADERS),
    ("Access-Control-Allow-Methods", _METHODS),
    ("Access-Control-Max-Age", _MAX_AGE),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)
# Anthropic's client sends more from a page; Ollama does not let it.
_ANTHROPIC_PREFLIGHT = (
    (
        "Access-Control-Allow-Headers",
        _HEADERS
        + ",x-api-key,anthropic-version,anthropic-beta,anthropic-dangerous-direct-browser-access,x-stainless-helper",
    ),
    *_PREFLIGHT[1:],
)


def host_name(header: str) -> str:
    """The name or address in a Host header. One in brackets needs its port to be taken for an address."""
    if header.startswith("["):
        address, bracket, port = header[1:].partition("]")
        return address if bracket and port.startswith(":") else header
    return header.split(":")[0] if header.count(":") == 1 else header


def local_host(header: str) -> bool:
    """Whether a Host header names a machine of one's own: a public name would be a rebound DNS answer."""
    name = host_name(header)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _local_name(name)
    if address.is_loopback or address.is_unspecified or any(address in block for block in _PRIVATE):
        return True
    return _own_address(name)


def _local_name(name: str) -> bool:
    name = name.lower()
    return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES)


def _own_address(address: str) -> bool:
    """Whether it is one of this machine's: only those can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if ipaddress.ip_address(address).is_multicast:
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def allowed_origin(origin: str, patterns: tuple[str, ...]) -> bool:
    """Whether a page from origin may talk to us; `*` in a pattern stands for anything."""
    return any(fnmatch.fnmatchcase(origin, _as_glob(pattern)) for pattern in patterns)


def _as_glob(pattern: str) -> str:
    return re.sub(r"([\[\]?])", r"[\1]", pattern if "*" in pattern else pattern.lower())


def access(settings: Settings) -> object:
    """A middleware that lets pass who may ask, by Origin and Host, and answers preflights."""
    host = settings.address.host
    listens_locally = host in ("localhost", "") or _is_loopback(host)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = request.headers.get("Host", "")
        origin = request.headers.get("Origin", "")
        foreign = origin and not _same_origin(request, origin)
        if foreign and not allowed_origin(origin, settings.origins):
            return _bare(request, 403)
        if foreign and request.method == "OPTIONS":
            return _bare(
                request, 204, _ANTHROPIC_PREFLIGHT if dialect_of(request.path) == "anthropic" else _PREFLIGHT
            )
        if listens_locally and not local_host(named):
            return _bare(request, 403)
        if listens_locally and request.method == "OPTIONS" and _local_name(host_name(named)):
            return _bare(request, 204)
        return await handler(request)

    return check


def _bare(request: web.Request, status: int, headers: Iterable[tuple[str, str]] = ()) -> web.Response:
    """An answer without a body, which yet tells the methods of the path if the request's is none of them."""
    response = web.Response(status=status, headers=CIMultiDict(headers))
    methods = allowed_methods(request.app, request.path)
    if methods and request.method not in methods:
        response.headers["Allow"] = ", ".join(methods)
    return response


@web.middleware
async def clean_path(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Leads a path with doubled slashes or dots to the one that it means, whoever asks for whatever."""
    path = request.rel_url.raw_path
    clean = _clean(path) if path.startswith("/") else path  # OPTIONS * and CONNECT have none
    return await handler(request) if clean == path else _redirect(request, clean, 307)


def _clean(path: str) -> str:
    clean = "/" + posixpath.normpath(path).lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


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
    host = request.headers.get("Host", "")
    return origin in (f"http://{host}", f"https://{host}")


def grants(settings: Settings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal handler that tells a browser that it may read: streams send their headers before a middleware
    could add any."""

    async def grant(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin", "")
        if not origin or _same_origin(request, origin) or not allowed_origin(origin, settings.origins):
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


def _plain(status: int, text: str) -> web.Response:
    """Plain text that says no encoding."""
    return web.Response(status=status, body=text.encode(), headers={"Content-Type": "text/plain"})


def _redirect(request: web.Request, path: str, status: int) -> web.Response:
    """Go answers a GET with a link that nobody follows by hand."""
    target = path + (f"?{query}" if (query := request.rel_url.raw_query_string) else "")
    response = web.Response(status=status, headers={"Location": target})
    if request.method in ("GET", "HEAD"):
        words = "Moved Permanently" if status == 301 else "Temporary Redirect"
        response.text = f'<a href="{html.escape(target)}">{words}</a>.\n\n'
        response.content_type = "text/html"
    return response


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the native dialect; unknown paths and methods as plain text."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        shorter = request.rel_url.raw_path[:-1]
        if request.path.endswith("/") and request.method in allowed_methods(request.app, shorter):
            return _redirect(request, shorter, 301 if request.method == "GET" else 307)
        return _plain(404, "404 page not found")
    except web.HTTPMethodNotAllowed:
        response = _plain(405, "405 method not allowed")
        response.headers["Allow"] = ", ".join(allowed_methods(request.app, request.path))
        return response
    except web.HTTPRequestEntityTooLarge:
        return failure(request.path, TooLargeError("request body too large"))
    except web.HTTPException:
        raise
    except Exception as error:
        return failure(request.path, error)


_ORDER = ("HEAD", "GET", "POST", "DELETE")


def allowed_methods(app: web.Application, path: str) -> list[str]:
    """The methods of a path, in Ollama's order; none for one that does not exist."""
    found = {
        route.method
        for route in app.router.routes()
        if route.resource is not None and _leads(route.resource, path)
    }
    return sorted(found, key=_ORDER.index)


def _leads(resource: AbstractResource, path: str) -> bool:
    info = resource.get_info()
    pattern = info.get("pattern")
    return info.get("path") == path if pattern is None else pattern.fullmatch(path) is not None
