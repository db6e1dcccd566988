"""Which models are resident: loaded on demand, kept for keep_alive after their last use, several at a time.

All state belongs to the event loop. A model is loading (requests for it wait for one and the same load), resident
or leaving: it makes room for another, takes no new users and goes with its last one; who wants it again
waits until it is gone and loads it anew. Models are loaded one at a time, in the order they were asked for, so
that two with room for one take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ollamapy.types import EngineError, RequestError

if TYPE_CHECKING:
    from ollamapy.engine.protocol import Engine, LoadedModel

_log = logging.getLogger("ollamapy")


class DoesNotFitError(RequestError):
    """A model that needs more memory than there is."""

    status = 500


@dataclass(eq=False)
class Resident:
    """A model in memory, or on its way there."""

    key: str
    name: str  # of its latest user
    loading: asyncio.Task[LoadedModel]
    keep_alive: float  # seconds after the last use; inf: for ever
    users: int = 0
    used: float = field(default_factory=time.time)  # when it was last used, seconds since 1970
    num_ctx: int = 0  # of the last request
    timer: asyncio.TimerHandle | None = None
    leaving: bool = False  # it makes room and takes no new users
    unloading: bool = False
    began: asyncio.Event = field(default_factory=asyncio.Event)  # loading has begun: there was room

    @property
    def ready(self) -> bool:
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None

    @property
    def model(self) -> LoadedModel:
        return self.loading.result()

    @property
    def expires(self) -> float:
        """When it leaves unless it is used again, seconds since 1970."""
        return (time.time() if self.users else self.used) + self.keep_alive


class Residency:
    """The models on an engine."""

    def __init__(self, engine: Engine, keep_alive: float, most: int, load_timeout: float = math.inf) -> None:
        self._engine = engine
        self._keep_alive = keep_alive
        self._most = most
        self._load_timeout = None if math.isinf(load_timeout) else load_timeout
        self._models: dict[str, Resident] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._loads = asyncio.Lock()
        self._waiters: list[asyncio.Future[None]] = []

    def residents(self) -> list[Resident]:
        """Models that are ready, the one that leaves last first."""
        ready = [resident for resident in self._models.values() if resident.ready]
        return sorted(ready, key=lambda resident: resident.expires, reverse=True)

    @contextlib.asynccontextmanager
    async def use(
        self,
        key: str,
        name: str,
        path: str,
        keep_alive: float | None,
        num_ctx: int = 0,
        adapter: str = "",
    ) -> AsyncIterator[LoadedModel]:
        """A model, loaded if need be, that stays while the context is open.

        key tells models apart (digests of weights and adapter); name is for people. keep_alive None leaves
        what the model has.
        Raises what Engine.load() raises, DoesNotFitError, and EngineError when loading takes too long.
        """
        while (resident := self._models.get(key)) is not None and resident.leaving:
            await self._change()
        if resident is None:
            resident = self._start(key, name, path, adapter)
        resident.name = name
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        resident.users += 1
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        try:
            if num_ctx:
                resident.num_ctx = num_ctx
            try:
                await resident.began.wait()
                # a client that leaves does not take the load away from the others who wait for it
                model = await asyncio.wait_for(asyncio.shield(resident.loading), self._load_timeout)
            except asyncio.TimeoutError:
                raise EngineError(f"loading {name} takes longer than {self._load_timeout:g} s") from None
            yield model
        finally:
            resident.users -= 1
            resident.used = time.time()
            if resident.users == 0 and self._models.get(key) is resident:
                self._rest(resident)
            self._notify()

    async def _change(self) -> None:
        """Wait until somebody let go of a model, or one has come or gone."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _start(self, key: str, name: str, path: str, adapter: str) -> Resident:
        began = asyncio.Event()
        task = asyncio.ensure_future(self._load(key, name, path, adapter, began))
        resident = Resident(key, name, task, self._keep_alive, began=began)
        self._models[key] = resident

        def settle(task: asyncio.Task[LoadedModel]) -> None:
            began.set()
            self._notify()
            if task.cancelled() or task.exception() is not None:
                if self._models.get(key) is resident:
                    del self._models[key]
            elif resident.users == 0:
                self._rest(resident)

        task.add_done_callback(settle)
        return resident

    async def _load(self, key: str, name: str, path: str, adapter: str, began: asyncio.Event) -> LoadedModel:
        async with self._loads:
            if not self._models[key].users:
                raise EngineError(f"nobody waits for {name} any more")
            needed = await asyncio.to_thread(self._engine.needed_bytes, path)
            while True:
                others = [r for r in self._models.values() if r.ready and r.key != key]
                free = self._engine.free_bytes()
                if free >= needed and len(others) < self._most:
                    break
                most = free + sum(self._engine.held_bytes(resident.model) for resident in others)
                if needed > most:
                    raise DoesNotFitError(
                        f"model {name!r} requires more system memory ({_gib(needed)}) than is available "
                        f"({_gib(most)})"
                    )
                await self._make_room(others)
            began.set()
            while True:
                try:
                    return await self._engine.load(path, adapter)
                except MemoryError as error:
                    others = [r for r in self._models.values() if r.ready and r.key != key]
                    if not others:
                        reason = f": {error}" if str(error) else ""
                        raise DoesNotFitError(f"model {name!r} does not fit into memory{reason}") from None
                    await self._make_room(others)

    async def _make_room(self, others: list[Resident]) -> None:
        """Let the model go that was used longest ago: an idle one, else one that is busy, when it is done."""
        idle = [resident for resident in others if not resident.users]
        victim = min(idle or others, key=lambda resident: resident.used)
        victim.leaving = True
        while victim.users:
            await self._change()
        await self._unload(victim)
        while self._models.get(victim.key) is victim:
            await self._change()

    def _rest(self, resident: Resident) -> None:
        """Start the timer of a model that nobody uses."""
        if not resident.ready or resident.leaving:
            return
        if resident.keep_alive <= 0:
            self._leave(resident)
        elif not math.isinf(resident.keep_alive):
            loop = asyncio.get_running_loop()
            resident.timer = loop.call_later(resident.keep_alive, self._leave, resident)

    def _leave(self, resident: Resident) -> None:
        self._background(self._unload(resident))

    async def _unload(self, resident: Resident) -> None:
        if self._models.get(resident.key) is not resident or resident.users or resident.unloading:
            return
        resident.unloading = True
        resident.leaving = True
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        _log.info("unloading %s", resident.name)
        try:
            await self._engine.unload(resident.model)
        finally:
            del self._models[resident.key]
            self._notify()

    async def release(self, key: str) -> None:
        """Unload a model now, or as soon as its last user is done. One that is not resident is no error."""
        resident = self._models.get(key)
        if resident is None:
            return
        resident.keep_alive = 0.0
        if resident.ready:
            await self._unload(resident)

    async def close(self) -> None:
        """Forget all models; the engine's close() frees them."""
        for resident in self._models.values():
            if resident.timer is not None:
                resident.timer.cancel()
            if not resident.loading.done():
                resident.loading.cancel()
        loading = [resident.loading for resident in self._models.values()]
        await asyncio.gather(*loading, *self._leaving, return_exceptions=True)
        self._models.clear()


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
