"""Push: the blobs that a registry lacks, then the manifest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
from yarl import URL

from ollamapy.store.errors import ModelNotFoundError, StoreError
from ollamapy.store.manifest import MANIFEST_TYPE, Layer
from ollamapy.store.names import ModelName
from ollamapy.store.registry.errors import AnswerError, MissingError, RegistryError, UnreachableError
from ollamapy.store.registry.http import AGAIN, RegistryClient
from ollamapy.store.registry.partial import Part, split
from ollamapy.store.registry.pull import Event, Transfers

_BLOCK = 1 << 20  # bytes read at a time
_INTERVAL = 0.06  # seconds between progress events


async def push(transfers: Transfers, name: ModelName, insecure: bool) -> AsyncGenerator[Event, None]:
    """Progress events of a push, Ollama's. Raises RegistryError, StoreError, ModelNotFoundError."""
    yield {"status": "retrieving manifest"}
    try:
        model = transfers.store.get(name)
    except (ModelNotFoundError, StoreError):
        yield {"status": "couldn't retrieve manifest"}
        raise
    layers = [*model.manifest.layers, model.manifest.config]
    paths = [transfers.store.blobs.existing(layer.digest) for layer in layers]
    client = RegistryClient(name, insecure, transfers.key, transfers.patience)
    async with client:
        for layer, path in zip(layers, paths, strict=True):
            async with aclosing(_blob(client, layer, path)) as events:
                async for event in events:
                    yield event
        yield {"status": "pushing manifest"}
        headers = {"Content-Type": MANIFEST_TYPE}
        async with client.send("PUT", client.manifest, headers, msgspec.json.encode(model.manifest)):
            pass
    yield {"status": "success"}


async def _blob(client: RegistryClient, layer: Layer, path: Path) -> AsyncGenerator[Event, None]:
    size = path.stat().st_size  # noqa: ASYNC240 (one call)
    status: Event = {"status": f"pushing {layer.digest[7:19]}", "digest": layer.digest, "total": size}
    if await _has(client, layer.digest):
        yield {**status, "completed": size}
        return
    upload = Upload(client, layer, path, size)
    task = asyncio.ensure_future(upload.run())
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_INTERVAL)
            if not task.done():
                yield {**status, "completed": upload.completed} if upload.completed else status
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    yield {**status, "completed": size}


async def _has(client: RegistryClient, digest: str) -> bool:
    try:
        async with client.send("HEAD", client.blob(digest)):
            return True
    except MissingError:
        return False


class Upload:
    """One blob on its way to a registry."""

    def __init__(self, client: RegistryClient, layer: Layer, path: Path, size: int) -> None:
        self._client = client
        self._layer = layer
        self._path = path
        self._size = size
        self._sums: dict[int, bytes] = {}  # MD5 of each part, which the registry's storage checks
        self.completed = 0

    async def run(self) -> None:
        """Raises RegistryError. A part that fails is sent again from where the registry says it has got to."""
        url = await self._begin()
        if url is None:
            return
        for part in split(self._size):
            url = await self._part(url, part)
        etag = hashlib.md5(b"".join(self._sums[n] for n in sorted(self._sums))).hexdigest()
        end = url.update_query({"digest": self._layer.digest, "etag": f"{etag}-{len(self._sums)}"})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
        async with self._client.send("PUT", end, headers):
            self.completed = self._size

    async def _begin(self) -> URL | None:
        """Where to send to; None when the registry took the blob from another of its models."""
        url = self._client.base / "blobs" / "uploads/"
        if self._layer.from_name:
            source = ModelName.parse(self._layer.from_name)
            if source.host.lower() == self._client.name.host.lower():
                query = {"mount": self._layer.digest, "from": f"{source.namespace}/{source.model}"}
                url = url.with_query(query)
        async with self._client.send("POST", url, {"Content-Length": "0"}) as response:
            if response.status == 201:
                self.completed = self._size
                return None
            return _next(response.headers, response.url)

    async def _part(self, url: URL, part: Part) -> URL:
        patience = self._client.patience
        for attempt in range(patience.blob_tries):
            try:
                return await self._send(url, part)
            except (UnreachableError, AnswerError) as error:
                # 416: a part that had arrived before its answer was lost; the registry says where to go on.
                if isinstance(error, AnswerError) and error.answer not in AGAIN | {416}:
                    raise
                if attempt + 1 == patience.blob_tries:
                    raise
                await asyncio.sleep(patience.delay(attempt))
                url, part.completed = await self._state(url, part)
        raise AssertionError("unreachable")

    async def _state(self, url: URL, part: Part) -> tuple[URL, int]:
        """Ask how much of a part has arrived after a failure."""
        try:
            async with self._client.send("GET", url) as response:
                _, _, last = response.headers.get("Range", "").partition("-")
                # Docker's registry says 0-0 of an upload that has nothing yet.
                arrived = int(last) + 1 - part.offset if last.isdecimal() and int(last) else 0
                if not response.headers.get("Location"):
                    return url, 0
                return _next(response.headers, response.url), max(0, min(arrived, part.size))
        except AnswerError:
            return url, 0

    async def _send(self, url: URL, part: Part) -> URL:
        first, last = part.offset + part.completed, part.offset + part.size - 1
        self.completed = first
        if first > last:
            self._sums[part.n] = await asyncio.to_thread(_md5, self._path, part)
            return url
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(last + 1 - first),
            "Content-Range": f"{first}-{last}",
            "X-Redirect-Uploads": "1",
        }

        def body() -> AsyncIterator[bytes]:
            return self._read(first, last + 1)

        send = self._client.send
        async with send("PATCH", url, headers, body, tries=1, follow=False) as response:
            following = _next(response.headers, response.url)
            moved = response.headers.get("Location", "") if response.status == 307 else ""
        if moved:
            # The registry's storage takes the part itself; it gets no token of ours.
            plain = {"Content-Type": "application/octet-stream", "Content-Length": headers["Content-Length"]}
            target = url.join(URL(moved, encoded=True))
            async with send("PUT", target, plain, body, tries=1):
                pass
        self._sums[part.n] = await asyncio.to_thread(_md5, self._path, part)
        self.completed = last + 1
        return following

    async def _read(self, start: int, end: int) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while start < end:
                block = await asyncio.to_thread(file.read, min(_BLOCK, end - start))
                if not block:
                    raise StoreError(f"blob {self._layer.digest} is shorter than it was")
                start += len(block)
                yield block
                self.completed = start


def _next(headers: Any, asked: URL) -> URL:
    """Where an upload goes on. Raises RegistryError when the registry does not say."""
    text = headers.get("Docker-Upload-Location") or headers.get("Location")
    if not text:
        raise RegistryError("the registry does not say where to upload to")
    return asked.join(URL(text, encoded=True))


def _md5(path: Path, part: Part) -> bytes:
    digest = hashlib.md5()
    with path.open("rb") as file:
        file.seek(part.offset)
        left = part.size
        while left and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.digest()
