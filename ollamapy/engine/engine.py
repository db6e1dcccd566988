"""The engine of one device: see Engine in ollamapy.engine.protocol."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from ollamapy import _core
from ollamapy.engine.loop import StepLoop
from ollamapy.engine.memory import KV_SHARE, SCRATCH, available_memory
from ollamapy.engine.model import Model, Settings, read_parts
from ollamapy.engine.protocol import LoadedModel
from ollamapy.types import EngineError


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
        of what is available when the model is loaded. isa: the instruction set, "" the widest. kv_type: what
        KV pages hold, f16, q8_0 or q4_0. prefix_cache: whether requests share the KV pages of equal
        beginnings."""
        self._threads = threads
        self._isa = isa
        self._prefill_chunk = prefill_chunk
        self._max_sequences = max_sequences
        self._kv_memory = kv_memory
        self._prefix_cache = prefix_cache
        self._kv_type = kv_type
        self._models: list[Model] = []
        self._device: _core.Device | None = None
        self._runner: _core.Runner | None = None
        self._loop: StepLoop | None = None

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

    async def close(self) -> None:
        for model in list(self._models):
            await self.unload(model)
        if self._loop is not None and self._runner is not None:
            await self._loop.stop()
            await asyncio.to_thread(self._runner.close)
        self._loop = self._runner = self._device = None

    def needed_bytes(self, path: str) -> int:
        return Path(path).stat().st_size + SCRATCH

    def free_bytes(self) -> int:
        return max(0, available_memory() - sum(model.promised_bytes for model in self._models))

    def held_bytes(self, model: LoadedModel) -> int:
        return model.nbytes + sum(m.promised_bytes for m in self._models if m is model)

    async def load(self, path: str, adapter: str = "") -> Model:
        loop, device = self._loop, self._device
        if loop is None or device is None:
            raise EngineError("the engine is not running")
        settings = Settings(
            self._prefill_chunk, self._max_sequences, prefix_cache=self._prefix_cache, kv_type=self._kv_type
        )
        parts = await asyncio.to_thread(read_parts, path, device, settings, adapter)
        if self._loop is not loop:
            raise EngineError("the engine was shut down")
        settings = replace(settings, kv_memory=self._kv_budget())
        model = Model(parts, settings, loop)
        self._models.append(model)
        return model

    async def unload(self, model: LoadedModel) -> None:
        for ours in [m for m in self._models if m is model]:
            self._models.remove(ours)
            await ours.close(EngineError("the model was unloaded"))
            # The allocator keeps the pieces that a model was built from unless it is told.
            await asyncio.to_thread(_core.release_memory)

    def _kv_budget(self) -> int:
        if self._kv_memory is not None:
            return self._kv_memory
        return int(self.free_bytes() * KV_SHARE)
