"""An asynchronous client of the native API, for the command line and for other programs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any

import aiohttp

_LINE_LIMIT = 64 << 20  # bytes of one event


class ClientError(Exception):
    """The server's answer is an error; status is -1 for one inside a stream."""

    def __init__(self, message: str, status: int = -1) -> None:
        super().__init__(message)
        self.status = status


class NotConnectedError(ClientError):
    """Nothing that speaks HTTP listens there."""


class Client:
    """Talks to one server. Use as an asynchronous context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        key = os.environ.get("OLLAMA_API_KEY")  # as Ollama's own clients take it
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            read_bufsize=_LINE_LIMIT,
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else None,
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

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What may go wrong with an answer, as a ClientError."""
        try:
            yield
        except (aiohttp.ClientResponseError, ValueError):
            raise ClientError(f"{self.url} answers, but not as an Ollama server does") from None
        except aiohttp.ClientError as error:
            raise ClientError(f"the connection broke off: {error}") from None

    async def _send(self, method: str, path: str, **arguments: Any) -> aiohttp.ClientResponse:
        assert self._session is not None
        with self._reading():
            try:
                response = await self._session.request(method, self.url + path, **arguments)
            except aiohttp.InvalidURL as error:
                raise NotConnectedError(f"invalid server address {error}") from None
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                raise NotConnectedError(f"could not connect to {self.url}: {error}") from None
            if response.status >= 400:
                data = await response.read()
                raise ClientError(_error_text(data, response.status), response.status)
        return response

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """One request and its JSON object, None for an empty answer. Raises ClientError."""
        response = await self._send(method, path, json=body)
        with self._reading():
            data = await response.read()
            return _object(data) if data else None

    async def exists(self, path: str) -> bool:
        """Whether HEAD finds something."""
        try:
            await self._send("HEAD", path)
        except NotConnectedError:
            raise
        except ClientError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """POST a body of unknown length. Raises ClientError."""
        await self._send("POST", path, data=chunks)

    async def stream(self, path: str, body: object) -> AsyncIterator[dict[str, Any]]:
        """The events of an NDJSON answer. Raises ClientError, also for an error inside the stream."""
        response = await self._send("POST", path, json=body)
        try:
            with self._reading():
                async for line in response.content:
                    if line.strip():
                        event = _object(line)
                        if event.get("error"):
                            raise ClientError(str(event["error"]))
                        yield event
        finally:
            response.close()


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _error_text(data: bytes, status: int) -> str:
    try:
        value = json.loads(data)
        return str(value["error"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace").strip() or f"status {status}"
