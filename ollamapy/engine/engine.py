"""The engine of one device: see Engine in ollamapy.engine.protocol."""

from __future__ import annotations

import asyncio

from ollamapy import _core
from ollamapy.engine.loop import StepLoop
from ollamapy.engine.memory import KV_SHARE, available_memory
from ollamapy.engine.model import Model
from ollamapy.engine.parts import Parts, Settings, prepare
from ollamapy.engine.protocol import LoadedModel
from ollamapy.scheduler.reading import Reading
from ollamapy.types import EngineError

_LOOK = 1.0  # seconds: how often it is looked what other processes have left of the memory


class Engine:
    def __init__(
        self,
        threads: int = 0,
        prefill_chunk: int = 256,
        max_sequences: int = 64,
        kv_memory: int | None = None,
        isa: str = "",
        kv_type: str = "f16",
        prefix_cache: bool = True,
    ) -> None:
        """threads 0: as many as this process has CPUs. prefill_chunk: prompt rows in a step; max_sequences:
        requests of a model that run at once. kv_memory: bytes of KV pages for each model; None takes a share
        of what is free. isa: the instruction set, "" the widest. kv_type: what KV pages hold, f16, q8_0 or q4_0.
        prefix_cache: whether requests share the KV pages of equal beginnings."""
        self._threads = threads
        self._isa = isa
        self._settings = Settings(prefill_chunk, max_sequences, prefix_cache, kv_type)
        self._kv_memory = kv_memory
        self._models: list[Model] = []
        self._reserved = 0  # bytes of models whose weights are being read
        self._shrinking: set[asyncio.Task[None]] = set()
        self._device: _core.Device | None = None
        self._runner: _core.Runner | None = None
        self._loop: StepLoop | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def steps(self) -> StepLoop:
        """The step loop, with its counters."""
        if self._loop is None:
            raise EngineError("the engine is not running")
        return self._loop

    async def start(self) -> None:
        self._device = _core.Device(self._threads, self._isa)
        self._runner = _core.Runner(self._device)
        self._loop = StepLoop(self._runner)
        self._loop.start()
        self._watch = asyncio.create_task(self._watch_memory(), name="ollamapy memory")

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        for model in list(self._models):
            await self.unload(model)
        if self._loop is not None and self._runner is not None:
            await self._loop.stop()
            await asyncio.to_thread(self._runner.close)
        self._loop = self._runner = self._device = None

    async def prepare(self, path: str, adapter: str = "", reading: Reading | None = None) -> Parts:
        if self._device is None:
            raise EngineError("the engine is not running")
        return await (reading or Reading()).run(prepare, path, self._device, self._settings, adapter)

    async def load(self, prepared: Parts, num_ctx: int = 0, reading: Reading | None = None) -> Model:
        loop = self._loop
        if loop is None:
            raise EngineError("the engine is not running")
        needed = prepared.needed_bytes(0)  # until it has taken them, however long that is
        self._reserved += needed
        try:
            await (reading or Reading()).run(prepared.read, stop=prepared.stop)
        finally:
            self._reserved -= needed
        if self._loop is not loop:
            raise EngineError("the engine was shut down")
        room = available_memory() if self._kv_memory is None else self._kv_memory
        model = Model(prepared, loop, room, self._kv_free, num_ctx)
        self._models.append(model)
        self.share_out()
        return model

    async def unload(self, model: LoadedModel) -> None:
        for ours in self._ours(model):
            self._models.remove(ours)
            await ours.close(EngineError("the model was unloaded"))
            # The allocator keeps the pieces that a model was built from unless it is told.
            await asyncio.to_thread(_core.release_memory)
        self.share_out()

    # Memory

    def free_bytes(self) -> int:
        promised = sum(model.promised_bytes for model in self._models)
        return max(0, available_memory() - promised - self._reserved)

    def held_bytes(self, model: LoadedModel) -> int:
        return sum(ours.nbytes + ours.promised_bytes for ours in self._ours(model))

    def spare_bytes(self, model: LoadedModel) -> int:
        return sum(ours.spare_bytes for ours in self._ours(model))

    async def shrink(self, model: LoadedModel, nbytes: int) -> None:
        for ours in self._ours(model):
            # Whoever waits may leave: what was begun is finished all the same.
            task = asyncio.ensure_future(ours.shrink(nbytes))
            self._shrinking.add(task)
            task.add_done_callback(self._shrinking.discard)
            await asyncio.shield(task)

    def missing_bytes(self, model: LoadedModel, num_ctx: int) -> int:
        return sum(ours.missing_bytes(num_ctx) for ours in self._ours(model))

    def widen(self, model: LoadedModel, num_ctx: int) -> None:
        for ours in self._ours(model):
            if ours.missing_bytes(num_ctx) <= self.free_bytes():
                ours.widen(num_ctx)

    def share_out(self) -> None:
        part = self._part()
        for model in self._models:
            model.promise(part if self._kv_memory is None else self._kv_memory - model.kv_bytes)

    async def _watch_memory(self) -> None:
        """Take promises back as other processes take the memory: a page that was promised takes it when it is first
        used, and the system would swap, or kill us."""
        while True:
            await asyncio.sleep(_LOOK)
            if self._models and self._kv_memory is None:
                part = self._part()
                for model in self._models:
                    if model.kv_promised > part:
                        model.promise(part)

    def _part(self) -> int:
        """Bytes of KV pages that each model may be promised beyond those that it has."""
        free = max(0, available_memory() - self._reserved) * KV_SHARE
        return int(free / max(1, len(self._models)))

    def _ours(self, model: LoadedModel) -> list[Model]:
        return [ours for ours in self._models if ours is model]

    def _kv_free(self) -> int:
        """Bytes that there are for the KV pages of a further program."""
        return self.free_bytes() if self._kv_memory is None else self._kv_memory
