"""A client that takes next to nothing of the cores that it measures: it notes when bytes come and reads them later.

Client and server share the machine: one that parses every event as it comes would be measured with the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import orjson


class AnswerError(RuntimeError):
    """The server answered with another status than 200, or broke off."""


class _Reader(asyncio.Protocol):
    """Sends one request and keeps what comes until the server closes."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start = 0.0
        self.pieces: list[tuple[float, bytes]] = []  # seconds since the request was sent, what came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.start = time.perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter() - self.start, data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def post(url: str, body: object) -> list[tuple[float, bytes]]:
    """POST a JSON body over a connection of its own.

    Returns the lines of the answer, each with the seconds from the request to the packet that completed it. Raises
    AnswerError.
    """
    where = urlsplit(url)
    data = orjson.dumps(body)
    head = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(
        lambda: _Reader(head.encode() + data), where.hostname, where.port
    )
    try:
        await reader.done
    finally:
        transport.abort()
    return list(_lines(url, reader.pieces))


def _lines(url: str, pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The body's lines, out of HTTP's chunks if it came in chunks."""
    raw = b"".join(data for _, data in pieces)
    ends: list[tuple[int, float]] = []  # offset behind each packet, when it came
    offset = 0
    for seconds, data in pieces:
        offset += len(data)
        ends.append((offset, seconds))
    head, gap, _ = raw.partition(b"\r\n\r\n")
    if not gap or not head.startswith(b"HTTP/1.1 200"):
        raise AnswerError(f"{url}: {raw[:300]!r}")
    at = len(head) + 4
    chunked = b"transfer-encoding: chunked" in head.lower()
    packet = 0
    rest = b""
    while at < len(raw):
        start, end = at, len(raw)
        if chunked:
            start = raw.index(b"\r\n", at) + 2
            end = start + int(raw[at : start - 2], 16)
            if end == start:
                return
            if end + 2 > len(raw):
                break
        at = end + 2 if chunked else end
        *lines, rest = (rest + raw[start:end]).split(b"\n")
        while ends[packet][0] < end:
            packet += 1
        for line in lines:
            if line := line.rstrip(b"\r"):
                yield ends[packet][1], line
    if chunked:
        raise AnswerError(f"{url}: the answer breaks off")
    if rest:
        yield ends[-1][1], rest


def events(lines: list[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """The JSON of lines: of NDJSON, or of the data of server-sent events."""
    for seconds, line in lines:
        data = line.removeprefix(b"data: ")
        if data.startswith(b"{"):
            yield seconds, orjson.loads(data)
