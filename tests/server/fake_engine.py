"""A scripted engine: a test double for what a real one does too rarely or too fast to be tested on.

A prompt is its words. The words of the last one decide what happens: `fail` breaks the engine after two
pieces, `refuse` raises before the first, `slow` writes for ever with pauses, anything else is echoed word
by word.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy.scheduler.reading import Reading
from ollamapy.types import ContextLengthError, Delta, EngineError, GenerationRequest, RequestError, Usage


class FakeTokenizer:
    """One token per character."""

    add_bos = False
    bos = None

    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [ord(c) for c in (text if isinstance(text, str) else text.decode())]

    def decode(self, tokens: list[int], special: bool = False) -> bytes:
        return "".join(map(chr, tokens)).encode()

    def is_control(self, token: int) -> bool:
        return False


class FakeModel:
    def __init__(self, engine: FakeEngine, path: str) -> None:
        self.engine = engine
        self.path = path
        self.file: Any = None
        self.tokenizer: Any = FakeTokenizer()
        self.architecture = "fake"
        self.context_length = 8192
        self.embedding_length = 4
        self.can_generate = True
        self.can_embed = True
        self.nbytes = 1 << 30
        self.capacity = 8192

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.engine.requests.append(request)
        text = self.tokenizer.decode(request.prompt).decode()
        if "refuse" in text:
            raise RequestError("the engine refuses")
        if len(request.prompt) > request.num_ctx and not request.truncate:
            raise ContextLengthError("the prompt is too long")
        self.engine.running += 1
        try:
            words = [word for word in re.split("[ \n]", text) if word]
            if "fail" in words:
                yield Delta(text="one")
                yield Delta(text=" two")
                raise EngineError("the device failed")
            count = 0
            while "slow" in text:
                count += 1
                yield Delta(text=f"{count} ", tokens=[1])
                await asyncio.sleep(0.01)
            for word in words:
                yield Delta(text=word + " ", tokens=[1])
            usage = Usage(len(request.prompt), 0, len(words), prompt_ns=1000, completion_ns=2000)
            yield Delta(text="end", done_reason="stop", usage=usage)
        finally:
            self.engine.running -= 1

    async def embed(self, inputs: list[list[int]], client: str = "") -> NDArray[np.float32]:
        rows = np.array([[len(tokens), 1, 2, 3] for tokens in inputs], dtype=np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class FakePrepared:
    def __init__(self, path: str, gib: int) -> None:
        self.path = path
        self.gib = gib

    def needed_bytes(self, num_ctx: int) -> int:
        """A GiB more for every 10,000 tokens."""
        return (self.gib + num_ctx // 10_000) << 30


class FakeEngine:
    """Counts what happens to it. `fits` GiB of models fit into memory at a time."""

    def __init__(self, load_seconds: float = 0.0, fits: int = 100) -> None:
        self.load_seconds = load_seconds
        self.fits = fits
        self.sizes: dict[str, int] = {}  # GiB by path, where it is not one
        self.spare: dict[str, int] = {}  # GiB by path, of those that shrink() gives back
        self.blocking: dict[str, Callable[[], object]] = {}  # by path: what its load does in a thread
        self.stops: dict[str, Callable[[], None]] = {}  # by path: what lets that end
        self.blocking_header: dict[str, Callable[[], object]] = {}  # and what prepare() does
        self.reserved = 0  # bytes of models that are being read
        self.events: list[str] = []  # load, unload and shrink, with the path
        self.models: list[FakeModel] = []
        self.running = 0
        self.requests: list[GenerationRequest] = []

    @property
    def loads(self) -> list[str]:
        return [event.removeprefix("load ") for event in self.events if event.startswith("load ")]

    @property
    def unloads(self) -> list[str]:
        return [event.removeprefix("unload ") for event in self.events if event.startswith("unload ")]

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def prepare(self, path: str, adapter: str = "", reading: Reading | None = None) -> FakePrepared:
        if path in self.blocking_header:
            await (reading or Reading()).run(self.blocking_header[path])
        if "unreadable" in path:
            raise OSError(f"{path} cannot be read")
        return FakePrepared(path, self.sizes.get(path, 1))

    async def load(
        self, prepared: FakePrepared, num_ctx: int = 0, reading: Reading | None = None
    ) -> FakeModel:
        path = prepared.path
        self.events.append(f"load {path}")
        self.reserved += prepared.needed_bytes(0)
        try:
            if path in self.blocking:
                await (reading or Reading()).run(self.blocking[path], stop=self.stops.get(path))
            await asyncio.sleep(self.load_seconds)
        finally:
            self.reserved -= prepared.needed_bytes(0)
        if Path(path).name.startswith("broken"):
            raise OSError(f"{path} is cut short")
        model = FakeModel(self, path)
        needed = prepared.needed_bytes(num_ctx)
        if needed <= self.free_bytes():
            model.nbytes, model.capacity = needed, max(num_ctx, model.capacity)
        if self.free_bytes() < model.nbytes:
            raise MemoryError("1 GiB more is needed")
        self.models.append(model)
        return model

    async def unload(self, model: Any) -> None:
        self.events.append(f"unload {model.path}")
        self.models.remove(model)

    def free_bytes(self) -> int:
        return (self.fits << 30) - sum(model.nbytes for model in self.models) - self.reserved

    def held_bytes(self, model: Any) -> int:
        return int(model.nbytes)

    def spare_bytes(self, model: Any) -> int:
        return self.spare.get(model.path, 0) << 30

    async def shrink(self, model: Any, nbytes: int) -> None:
        self.events.append(f"shrink {model.path}")
        await asyncio.sleep(0)
        given = min(nbytes, self.spare_bytes(model))
        model.nbytes -= given
        self.spare[model.path] = (self.spare_bytes(model) - given) >> 30

    def missing_bytes(self, model: Any, num_ctx: int) -> int:
        return max(0, num_ctx - model.capacity) // 10_000 << 30

    def widen(self, model: Any, num_ctx: int) -> None:
        model.nbytes += self.missing_bytes(model, num_ctx)
        model.capacity = num_ctx
        self.events.append(f"widen {model.path}")

    def share_out(self) -> None:
        self.events.append("share out")
