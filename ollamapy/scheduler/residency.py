"""Which models are resident: loaded on demand, kept for keep_alive after their last use, several at a time.

All state belongs to the event loop. A model is loading (requests for it wait for one and the same load), resident
or leaving: it makes room for another, takes no new users and goes with its last one; who wants it again
waits until it is gone and loads it anew. Models are loaded one at a time, in the order they were asked for, so
that two with room for one take turns.

Memory is found in this order: what is free; KV pages that were promised to others or hold what may be asked for again,
idle models first; idle models, the one used longest ago first; busy ones, when they are done. What would not be
enough is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ollamapy.types import EngineError, RequestError

if TYPE_CHECKING:
    from ollamapy.engine.protocol import Engine, LoadedModel, PreparedModel

_log = logging.getLogger("ollamapy")


class DoesNotFitError(RequestError):
    """A model that needs more memory than there is."""

    status = 500


@dataclass(frozen=True)
class Wanted:
    """A model as somebody asks for it."""

    key: str  # what tells models apart: digests of weights and adapter
    name: str  # for people
    path: str  # of the GGUF
    adapter: str = ""  # the GGUF of a LoRA
    digest: str = ""  # of the manifest
    details: Mapping[str, Any] = field(default_factory=dict)  # for listings


@dataclass(eq=False)
class Resident:
    """A model in memory, or on its way there."""

    wanted: Wanted  # as its latest user did
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
    def key(self) -> str:
        return self.wanted.key

    @property
    def name(self) -> str:
        return self.wanted.name

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
        """Models that are in memory, the one that leaves last first."""
        ready = [resident for resident in self._models.values() if resident.ready]
        here = [resident for resident in ready if resident.model.nbytes > 0]  # 0: unloaded a moment ago
        return sorted(here, key=lambda resident: resident.expires, reverse=True)

    def keys(self) -> set[str]:
        """Of the models that are in memory or on their way there."""
        return set(self._models)

    @contextlib.asynccontextmanager
    async def use(
        self, wanted: Wanted, keep_alive: float | None, num_ctx: int = 0
    ) -> AsyncIterator[LoadedModel]:
        """A model, loaded if need be, that stays while the context is open. keep_alive None leaves what it has.
        num_ctx: tokens of a sequence for which it should have room.

        Raises what Engine.prepare() and load() raise, DoesNotFitError, and EngineError when loading takes too long.
        """
        key = wanted.key
        while (resident := self._models.get(key)) is not None and resident.leaving:
            await self._change()
        if resident is None:
            resident = self._start(wanted)
        resident.wanted = wanted
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        resident.users += 1
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        try:
            resident.num_ctx = num_ctx or resident.num_ctx
            try:
                await resident.began.wait()
                # a client that leaves does not take the load away from the others who wait for it
                model = await asyncio.wait_for(asyncio.shield(resident.loading), self._load_timeout)
            except asyncio.TimeoutError:
                raise EngineError(
                    f"loading {wanted.name} takes longer than {self._load_timeout:g} s"
                ) from None
            await self._widen(resident, num_ctx)
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

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    def _start(self, wanted: Wanted) -> Resident:
        began = asyncio.Event()
        task = asyncio.ensure_future(self._load(wanted, began))
        resident = Resident(wanted, task, self._keep_alive, began=began)
        self._models[wanted.key] = resident

        def settle(task: asyncio.Task[LoadedModel]) -> None:
            began.set()
            self._notify()
            if task.cancelled() or task.exception() is not None:
                if self._models.get(wanted.key) is resident:
                    del self._models[wanted.key]
            elif resident.users == 0:
                self._rest(resident)

        task.add_done_callback(settle)
        return resident

    def _others(self, key: str) -> list[Resident]:
        """Those that are ready, apart from one."""
        return [resident for resident in self._models.values() if resident.ready and resident.key != key]

    async def _load(self, wanted: Wanted, began: asyncio.Event) -> LoadedModel:
        async with self._loads:
            if not self._models[wanted.key].users:
                raise EngineError(f"nobody waits for {wanted.name} any more")
            try:
                prepared = await self._engine.prepare(wanted.path, wanted.adapter)
            except MemoryError as error:
                raise _does_not_fit(wanted, error) from None
            try:
                while True:
                    others, num_ctx = self._others(wanted.key), self._models[wanted.key].num_ctx
                    if await self._fits(prepared, wanted.name, num_ctx, others):
                        break
                    await self._make_room(others)
                began.set()
                while True:
                    try:
                        model = await self._engine.load(prepared, num_ctx)
                        if self._engine.missing_bytes(model, num_ctx) > 0:
                            _log.warning("%s: no memory for %d tokens of context", wanted.name, num_ctx)
                        return model
                    except MemoryError as error:
                        if not (others := self._others(wanted.key)):
                            raise _does_not_fit(wanted, error) from None
                        await self._make_room(others)
            except BaseException:
                self._engine.share_out()  # what others did without for it
                raise

    async def _fits(self, prepared: PreparedModel, name: str, num_ctx: int, others: list[Resident]) -> bool:
        """Whether there is room for a model beside others, of which none has to go.

        Raises DoesNotFitError when it would not fit if they all went. Then, and when there is no room, nobody
        loses anything. There is to be room for num_ctx tokens too, unless that would never fit.
        """
        free = self._engine.free_bytes()
        most = free + sum(self._engine.held_bytes(resident.model) for resident in others)
        least, needed = prepared.needed_bytes(0), prepared.needed_bytes(num_ctx)
        if least > most:
            raise DoesNotFitError(
                f"model {name!r} requires more system memory ({_size(least)}) than is available ({_size(most)})"
            )
        needed = needed if needed <= most else least
        return len(others) < self._most and await self._spare(needed, others)

    async def _spare(self, needed: int, others: list[Resident]) -> bool:
        """Have so many bytes free at the cost of KV pages that are promised or cached, if that is enough."""
        missing = needed - self._engine.free_bytes()
        if missing > sum(self._engine.spare_bytes(resident.model) for resident in others):
            return False
        for resident in sorted(others, key=lambda other: (other.users > 0, other.used)):
            if missing > 0 and self._engine.spare_bytes(resident.model) > 0:
                await self._engine.shrink(resident.model, missing)
                missing = needed - self._engine.free_bytes()
        return missing <= 0

    async def _widen(self, resident: Resident, num_ctx: int) -> None:
        """Give a model room for num_ctx tokens if that costs no other its place, or an idle one only."""
        while (missing := self._engine.missing_bytes(resident.model, num_ctx)) > 0:
            others = self._others(resident.key)
            if await self._spare(missing, others):
                self._engine.widen(resident.model, num_ctx)
                return
            idle = [other for other in others if not other.users]
            free = self._engine.free_bytes()
            if missing > free + sum(self._engine.held_bytes(other.model) for other in idle):
                return
            await asyncio.shield(self._background(self._make_room(idle)))  # whoever waits may leave

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


def _does_not_fit(wanted: Wanted, error: MemoryError) -> DoesNotFitError:
    """When the system refuses memory."""
    return DoesNotFitError(f"model {wanted.name!r} does not fit into memory: {error}".rstrip(": "))


def _size(size: float) -> str:
    """A number of bytes as Ollama writes it: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{size:.1f} GiB"
