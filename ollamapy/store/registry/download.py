"""Blobs that are on their way here: one transfer each, however many pulls wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import aiohttp

from ollamapy.store.blobs import Blobs, file_digest, sync_folder
from ollamapy.store.registry.errors import (
    AnswerError,
    DigestMismatchError,
    RangeIgnoredError,
    RegistryError,
    UnreachableError,
)
from ollamapy.store.registry.http import AGAIN, RegistryClient, unreachable
from ollamapy.store.registry.partial import PARTS, SMALLEST, Part, PartialBlob
from ollamapy.store.threads import finish_in_thread

_CHUNK = 1 << 20  # bytes gathered before they are written
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Download:
    """One blob's transfer. It ends when nobody waits for it any more; what is there stays for the next."""

    def __init__(self, blobs: Blobs, digest: str, size: int, smallest: int) -> None:
        self.digest = digest
        self.size = size
        self.completed = 0
        self.verifying = False
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None
        self._blobs = blobs
        self._smallest = smallest
        self._changed = asyncio.Event()
        self._lines = asyncio.Semaphore(PARTS)  # connections at a time

    async def run(self, client: RegistryClient) -> None:
        """Raises RegistryError, OSError; the blob has its name only after its digest was checked."""
        partial = PartialBlob(self._blobs.path(self.digest), self.size, self._smallest)
        try:
            self.completed = partial.completed
            resumed = partial.resumed
            await self._fetch(client, partial)
            try:
                await self._verify(partial)
            except DigestMismatchError:
                await finish_in_thread(partial.restart)
                if not resumed:
                    partial.discard()
                    raise
                # What an earlier transfer left was spoilt: once more, from the beginning.
                self.completed = 0
                await self._fetch(client, partial)
                try:
                    await self._verify(partial)
                except DigestMismatchError:
                    partial.discard()
                    raise
            await finish_in_thread(partial.commit)
            await asyncio.to_thread(sync_folder, self._blobs.folder)
        finally:
            partial.close()

    async def _fetch(self, client: RegistryClient, partial: PartialBlob) -> None:
        if self.size == 0:
            return
        try:
            await _all([self._part(client, partial, part) for part in partial.parts])
        except RangeIgnoredError:
            await finish_in_thread(partial.restart)
            self.completed = 0
            await self._whole(client, partial)

    async def _part(self, client: RegistryClient, partial: PartialBlob, part: Part) -> None:
        async with self._lines:
            await self._part_until_done(client, partial, part)

    async def _part_until_done(self, client: RegistryClient, partial: PartialBlob, part: Part) -> None:
        attempt = 0
        while part.left:
            before = part.completed
            try:
                first = part.offset + part.completed
                last = part.offset + part.size - 1
                headers = {"Range": f"bytes={first}-{last}"}
                async with client.send("GET", client.blob(self.digest), headers, tries=1) as response:
                    whole = response.status == 200 and (first, last) == (0, self.size - 1)
                    if not whole and not _answers(response, first, last):
                        raise RangeIgnoredError("the registry ignores Range")
                    await self._receive(response, partial, part)
            except (UnreachableError, AnswerError) as error:
                if isinstance(error, AnswerError) and error.answer not in AGAIN:
                    raise
                attempt = 1 if part.completed > before else attempt + 1
                if attempt >= client.patience.blob_tries:
                    raise
                await asyncio.sleep(client.patience.delay(attempt - 1))

    async def _whole(self, client: RegistryClient, partial: PartialBlob) -> None:
        """Without ranges: one stream, from the beginning at every attempt."""
        for attempt in range(client.patience.blob_tries):
            try:
                async with client.send("GET", client.blob(self.digest), tries=1) as response:
                    for part in partial.parts:
                        await self._receive(response, partial, part)
                return
            except (UnreachableError, AnswerError) as error:
                passing = not isinstance(error, AnswerError) or error.answer in AGAIN
                if not passing or attempt + 1 == client.patience.blob_tries:
                    raise
                await finish_in_thread(partial.restart)
                self.completed = 0
                await asyncio.sleep(client.patience.delay(attempt))

    async def _receive(self, response: aiohttp.ClientResponse, partial: PartialBlob, part: Part) -> None:
        """Read a body into a part until it is full. Raises UnreachableError for a body that ends early."""
        gathered = bytearray()

        async def flush() -> None:
            count = len(gathered)
            await finish_in_thread(partial.write, part, bytes(gathered))
            gathered.clear()
            self.completed += count
            self._tell()

        try:
            while len(gathered) < part.left:
                chunk = await response.content.read(min(_CHUNK, part.left - len(gathered)))
                if not chunk:
                    raise UnreachableError(f'Get "{response.url}": unexpected EOF')
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    await flush()
        except (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError) as error:
            raise unreachable("GET", response.url, error) from None
        finally:
            if gathered:
                await flush()

    async def _verify(self, partial: PartialBlob) -> None:
        self.verifying = True
        self._tell()
        try:
            got = await asyncio.to_thread(file_digest, partial.path)
        finally:
            self.verifying = False
        if got != self.digest:
            raise DigestMismatchError(self.digest, got)

    def _tell(self) -> None:
        self._changed.set()

    async def progress(self, interval: float) -> AsyncIterator[int]:
        """The bytes that are there, when they change but not more often than each interval, until the end."""
        assert self.task is not None
        yield self.completed
        while not self.task.done():
            self._changed.clear()
            await asyncio.wait({self.task}, timeout=interval)
            if self._changed.is_set() and not self.task.done():
                yield self.completed
        await asyncio.shield(self.task)
        yield self.size


def _answers(response: aiohttp.ClientResponse, first: int, last: int) -> bool:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and (int(found[1]), int(found[2])) == (first, last)


class Downloads:
    """The transfers of a server. Belongs to the event loop."""

    def __init__(self, blobs: Blobs, smallest_part: int = SMALLEST) -> None:
        self._blobs = blobs
        self._smallest = smallest_part
        self._running: dict[str, Download] = {}

    @contextlib.asynccontextmanager
    async def join(self, client: RegistryClient, digest: str, size: int) -> AsyncIterator[Download]:
        """The transfer of a blob, begun now or by somebody else. The last to leave an unfinished one ends it."""
        download = self._running.get(digest)
        if download is None:
            download = Download(self._blobs, digest, size, self._smallest)
            self._running[digest] = download
            download.task = asyncio.ensure_future(self._run(download, client))
            download.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        elif download.size != size:
            raise RegistryError(f"two manifests disagree about the size of {digest}")
        assert download.task is not None
        download.waiters += 1
        try:
            yield download
        finally:
            download.waiters -= 1
            if not download.waiters and not download.task.done():
                download.task.cancel()
                await asyncio.wait({download.task})

    async def _run(self, download: Download, client: RegistryClient) -> None:
        # A client of its own: the pull that began it may leave before others that wait.
        try:
            async with client.another() as own:
                await download.run(own)
        finally:
            self._running.pop(download.digest, None)


async def _all(jobs: list[Coroutine[Any, Any, None]]) -> None:
    """Run jobs side by side; the first that fails ends the others, and all have ended when it is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
