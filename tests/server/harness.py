"""A server on a real socket: its own thread, event loop and store."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from ollamapy.server.app import start
from ollamapy.server.service import Service
from ollamapy.server.settings import Settings, parse_host
from ollamapy.store.gguf_writer import gguf_chunks
from ollamapy.store.importing import model_layers
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store

T = TypeVar("T")


class RunningServer:
    """Starts in the constructor and listens on a free port of 127.0.0.1 until close()."""

    def __init__(self, root: Path, engine: Any, **settings: Any) -> None:
        self.store = Store(root)
        self.settings = Settings(models=root, address=parse_host("127.0.0.1:0"), **settings)
        self.engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service, self._runner = self.call(self._start)
        self.port: int = self._runner.addresses[0][1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the server's loop."""

        async def run() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(120)

    async def _start(self) -> tuple[Service, Any]:
        engine = self.engine() if isinstance(self.engine, type) else self.engine
        self.engine = engine
        await engine.start()
        service = Service(self.settings, self.store, engine)
        return service, await start(service)

    def close(self) -> None:
        async def stop() -> None:
            self.service.shut_down()
            await self._runner.cleanup()
            await self.service.close()

        self.call(stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def add_gguf(store: Store, path: Path, name: str) -> None:
    """List a GGUF file in a store without copying it, where the file system allows."""
    import hashlib

    with path.open("rb") as file:
        digest = "sha256:" + hashlib.sha256(file.read()).hexdigest()
    store.blobs.folder.mkdir(parents=True, exist_ok=True)
    target = store.blobs.path(digest)
    if not target.exists():
        try:
            os.link(path, target)
        except OSError:
            target.write_bytes(path.read_bytes())
    with store.blobs.writing():
        imported = model_layers(store, digest)
        store.write(ModelName.parse(name), imported.config, imported.layers)


def tiny_gguf(path: Path, name: str = "tiny", pooled: bool = False, template: str | None = None) -> Path:
    """A GGUF of nothing but a header; the scripted engine needs no more."""
    rows: list[Any] = [
        ("general.architecture", "string", "llama"),
        ("general.name", "string", name),
        ("llama.context_length", "u32", 8192),
        ("llama.embedding_length", "u32", 4),
    ]
    if pooled:
        rows.append(("llama.pooling_type", "u32", 1))
    if template is not None:
        rows += [
            ("tokenizer.chat_template", "string", template),
            ("tokenizer.ggml.tokens", "strings", ["<s>"]),
        ]
    path.write_bytes(b"".join(gguf_chunks(rows, [])))
    return path
