"""Requests to a registry: tokens, redirects that leak none, retries, and time-outs on silence."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from ollamapy import __version__
from ollamapy.store.names import ModelName
from ollamapy.store.registry.challenge import Challenge
from ollamapy.store.registry.errors import (
    AnswerError,
    MissingError,
    RegistryError,
    UnauthorizedError,
    UnreachableError,
)
from ollamapy.store.registry.key import RegistryKey

_REDIRECTS = 10
_ERROR_BODY = 4096  # bytes of an error's body that are repeated
_TOKEN_BODY = 1 << 20
# Worth another try: the request came too slowly (408), too early (425) or too often (429), or the server or a proxy
# before it failed in passing. 501 and 505 are not: what a server cannot do it cannot do later.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = (301, 302, 303, 307, 308)

Body = Callable[[], AsyncIterator[bytes]]
"""makes the body anew for every attempt"""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a registry, in seconds, and how often to ask again."""

    tries: int = 4  # of a request that carries no blob
    blob_tries: int = 6  # of a part of a blob, since its last progress
    first_delay: float = 0.5  # doubled after each try
    longest_delay: float = 30.0  # also the longest Retry-After that is obeyed
    silence: float = 30.0  # without a byte

    def delay(self, attempt: int, answer: float | None = None) -> float:
        """Seconds before another try: what the registry asked for, else exponential with some jitter."""
        if answer is not None:
            return min(answer, self.longest_delay)
        return float(min(self.first_delay * 2**attempt * random.uniform(0.8, 1.2), self.longest_delay))


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    with contextlib.suppress(ValueError, TypeError):
        at = email.utils.parsedate_to_datetime(header)
        return max(0.0, (at - datetime.datetime.now(datetime.timezone.utc)).total_seconds())
    return None


class _TryAgainError(Exception):
    """A failed attempt; error is what to raise when it was the last."""

    def __init__(self, error: RegistryError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


class RegistryClient:
    """Talks to the registry of one name. Use as an asynchronous context manager."""

    def __init__(
        self, name: ModelName, insecure: bool, key: Callable[[], RegistryKey], patience: Patience
    ) -> None:
        """key is called when the registry asks for a token."""
        scheme = "http" if insecure else "https"
        self.name = name
        self.patience = patience
        self.base = URL(f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/")
        self._key = key
        self._token = ""
        self._asking = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RegistryClient:
        # Proxies come from the environment; certificates from OpenSSL's defaults, which SSL_CERT_FILE changes.
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self.patience.silence, sock_read=self.patience.silence
        )
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            trust_env=True,
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            headers={"User-Agent": f"ollamapy/{__version__}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    def another(self) -> RegistryClient:
        """A client of the same registry with connections of its own, for work that outlives this one."""
        client = RegistryClient(self.name, self.base.scheme == "http", self._key, self.patience)
        client._token = self._token
        return client

    def blob(self, digest: str) -> URL:
        return self.base / "blobs" / digest

    @property
    def manifest(self) -> URL:
        return self.base / "manifests" / self.name.tag

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        tries: int | None = None,
        follow: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer below 400. Its body is the caller's to read.

        Raises MissingError for 404, UnauthorizedError, AnswerError, UnreachableError; 429 and passing
        failures of the server only after `tries` tries, a refused connection at once.
        """
        tries = tries or self.patience.tries
        for attempt in range(tries):
            try:
                response = await self._authorized(method, url, headers or {}, body, follow)
            except _TryAgainError as failed:
                if attempt + 1 == tries:
                    raise failed.error from None
                await asyncio.sleep(self.patience.delay(attempt, failed.after))
            else:
                break
        try:
            yield response
        finally:
            response.close()

    async def read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """A whole body of at most limit bytes. Raises RegistryError, UnreachableError."""
        data = bytearray()
        try:
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise RegistryError(f"an answer of more than {limit} bytes")
        except (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError) as error:
            raise unreachable(response.method, response.url, error) from None
        return bytes(data)

    async def _authorized(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | bytes | None, follow: bool
    ) -> aiohttp.ClientResponse:
        for _ in range(2):
            token = self._token
            response = await self._follow(method, url, headers, body, follow)
            if response.status < 400:
                return response
            try:
                if response.status != 401:
                    await self._refuse(response)
                # 401 from where a redirect led is not our registry's: its challenge is for somebody else.
                if response.url.origin() != self.base.origin():
                    raise UnauthorizedError("unauthorized: access denied")
                challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""), url)
            finally:
                response.close()
            async with self._asking:
                if self._token == token:
                    self._token = await self._new_token(challenge)
        raise UnauthorizedError("unauthorized: access denied")

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 404:
            raise MissingError
        data = b""
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, TimeoutError):
            data = await response.content.read(_ERROR_BODY)
        error = AnswerError(response.status, data.decode("utf-8", "replace").strip())
        if response.status in AGAIN:
            raise _TryAgainError(error, retry_after(response.headers.get("Retry-After")))
        raise error

    async def _new_token(self, challenge: Challenge) -> str:
        url, authorization = challenge.request(self._key())
        response = await self._once("GET", url, {"Authorization": authorization}, None)
        try:
            if response.status == 404:
                raise AnswerError(404, "")
            if response.status == 401:
                raise UnauthorizedError("unauthorized: access denied")
            if response.status >= 400:
                await self._refuse(response)
            data = await self.read(response, _TOKEN_BODY)
        finally:
            response.close()
        try:
            value: Any = msgspec.json.decode(data)
            return str(value.get("token") or value["access_token"])
        except (msgspec.DecodeError, AttributeError, KeyError):
            raise RegistryError("the registry's token cannot be read") from None

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | bytes | None, follow: bool
    ) -> aiohttp.ClientResponse:
        """Follow redirects; what proves who we are goes to the registry itself only."""
        for _ in range(_REDIRECTS):
            sent = dict(headers)
            if self._token and url.origin() == self.base.origin():
                sent["Authorization"] = f"Bearer {self._token}"
            response = await self._once(method, url, sent, body)
            target = response.headers.get("Location")
            if not follow or response.status not in _MOVED or not target:
                return response
            response.close()
            try:
                url = url.join(URL(target, encoded=True))
            except ValueError:
                raise RegistryError(f"a redirect to {target!r}") from None
            if url.scheme not in ("http", "https"):
                raise RegistryError(f"a redirect to {target!r}")
        raise RegistryError(f"more than {_REDIRECTS} redirects")

    async def _once(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | bytes | None
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        data = body() if callable(body) else body
        try:
            return await self._session.request(method, url, headers=headers, data=data, allow_redirects=False)
        except aiohttp.InvalidURL:
            raise RegistryError(f"invalid address {str(url)!r}") from None
        except (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError) as error:
            wrapped = unreachable(method, url, error)
            # Nobody listens, or no such host: the address is wrong. Anything else may pass.
            if isinstance(error, aiohttp.ClientConnectorError):
                raise wrapped from None
            raise _TryAgainError(wrapped) from None


def unreachable(method: str, url: URL, error: BaseException) -> UnreachableError:
    """A failed connection in words."""
    reason = "no answer in time" if isinstance(error, (asyncio.TimeoutError, TimeoutError)) else str(error)
    return UnreachableError(f'{method.capitalize()} "{url}": {reason or type(error).__name__}')
