"""Which models are resident: loaded on demand, kept for keep_alive after their last use, several at a time.

All state belongs to the event loop. A model is loading (requests for it wait for one and the same load), resident
or leaving: it makes room for another, takes no new users and goes with its last one; who wants it again
waits until it is gone and loads it anew. Models are loaded one at a time, in the order they were asked for, so
that two with room for one take turns.

A load whose clients have all left ends at once, or, while a thread reads for it, when that thread does. The reading of
weights is told to stop, and who comes meanwhile loads the model anew; a thread that cannot be told goes on, and the
model goes unless somebody has come for it. Such a load, and one that makes no progress for load_timeout, is adrift: it
has lost its turn to the next one and keeps the memory that it was promised.

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
import traceback
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ollamapy.scheduler.reading import Reading
from ollamapy.types import EngineError, RequestError

if TYPE_CHECKING:
    from ollamapy.engine.protocol import Engine, LoadedModel, PreparedModel

T = TypeVar("T")

MOST_ADRIFT = 16  # loads that go on without their turn; each has a few threads
_GRACE = 2.0  # seconds that loads get to end when all models are let go of

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


class _Turn:
    """The right to load, which one load has at a time."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._has = False

    async def take(self) -> None:
        await self._lock.acquire()
        self._has = True

    def give(self) -> None:
        """Leave it to the next one. Who does not have it, has nothing to give."""
        if self._has:
            self._has = False
            self._lock.release()


@dataclass(eq=False)
class Resident:
    """A model in memory, or on its way there."""

    wanted: Wanted  # as its latest user did
    turn: _Turn
    keep_alive: float  # seconds after the last use; inf: for ever
    loading: asyncio.Task[LoadedModel] = field(init=False)
    reading: Reading = field(default_factory=Reading)
    users: int = 0
    used: float = field(default_factory=time.time)  # when it was last used, seconds since 1970
    num_ctx: int = 0  # of the last request
    timer: asyncio.TimerHandle | None = None
    leaving: bool = False  # it makes room and takes no new users
    unloading: bool = False
    working: bool = False  # a thread works on its load
    adrift: bool = False  # that work goes on without its turn
    stuck: bool = False  # and does not get on

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
        """keep_alive: seconds for which a model stays where nobody says anything else; most: models at a time;
        load_timeout: seconds without progress after which a load is given up."""
        self._engine = engine
        self._keep_alive = keep_alive
        self._most = most
        self._load_timeout = load_timeout
        # How often it is looked whether a load gets on.
        self._glance = None if math.isinf(load_timeout) else min(load_timeout / 4, 5.0)
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

        Raises what Engine.prepare() and load() raise, DoesNotFitError, and EngineError when loading does not get on.
        """
        key = wanted.key
        while (resident := self._models.get(key)) is not None and resident.leaving:
            if resident.stuck:
                raise self._no_progress(resident)
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
            model = await self._loaded(resident)
            await self._widen(resident, num_ctx)
            yield model
        finally:
            resident.users -= 1
            resident.used = time.time()
            if resident.users == 0 and self._models.get(key) is resident:
                self._rest(resident)
            self._notify()

    async def _loaded(self, resident: Resident) -> LoadedModel:
        """Wait for a load, which goes on for the others when one of those who wait leaves."""
        while not resident.loading.done():
            if resident.stuck:
                raise self._no_progress(resident)
            await self._change()
        return resident.model

    def _no_progress(self, resident: Resident) -> EngineError:
        return EngineError(f"loading {resident.name} has made no progress for {self._load_timeout:g} s")

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
        resident = Resident(wanted, _Turn(self._loads), self._keep_alive)
        resident.loading = task = asyncio.ensure_future(self._load(resident))
        self._models[wanted.key] = resident

        def settle(task: asyncio.Task[LoadedModel]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                traceback.clear_frames(error.__traceback__)  # which would keep the weights that were read
            if not resident.ready:
                if not resident.users:
                    _log.info("nobody waits for %s any more", resident.name)
                if self._models.get(wanted.key) is resident:
                    del self._models[wanted.key]
            self._trim()
            self._notify()

        task.add_done_callback(settle)
        return resident

    def _others(self, key: str) -> list[Resident]:
        """Those that are ready, apart from one."""
        return [resident for resident in self._models.values() if resident.ready and resident.key != key]

    async def _load(self, resident: Resident) -> LoadedModel:
        try:
            await resident.turn.take()
            await self._few_adrift()
            prepared = await self._prepare(resident)
            try:
                await self._find_room(resident, prepared)
                return await self._read(resident, prepared)
            except BaseException:
                self._engine.share_out()  # what others did without for it
                raise
        finally:
            resident.turn.give()

    async def _few_adrift(self) -> None:
        """Wait until there may be one more load. Raises EngineError when none of those that there are gets on."""
        while len(adrift := [r for r in self._models.values() if r.adrift]) >= MOST_ADRIFT:
            if all(resident.stuck for resident in adrift):
                raise EngineError(f"{len(adrift)} models are being loaded and make no progress")
            await self._change()

    async def _prepare(self, resident: Resident) -> PreparedModel:
        wanted = resident.wanted
        try:
            prepared = await self._work(
                resident, self._engine.prepare(wanted.path, wanted.adapter, resident.reading)
            )
        except MemoryError as error:
            raise _does_not_fit(wanted, error) from None
        if not resident.users:
            raise EngineError(f"nobody waits for {resident.name} any more")
        if resident.adrift:
            resident.adrift = False
            self._notify()
            await resident.turn.take()
        return prepared

    async def _find_room(self, resident: Resident, prepared: PreparedModel) -> None:
        """Make room for a model, at the cost of others if need be."""
        while True:
            others = self._others(resident.key)
            # One that is adrift gives its memory back, or can be asked to, when it ends.
            passing = any(r.adrift and not r.stuck for r in self._models.values())
            try:
                if await self._fits(prepared, resident.name, resident.num_ctx, others):
                    return
            except DoesNotFitError:
                if not passing:
                    raise
            if passing:
                await self._change()
            else:
                await self._make_room(others)

    async def _read(self, resident: Resident, prepared: PreparedModel) -> LoadedModel:
        while True:
            num_ctx = resident.num_ctx
            try:
                model = await self._work(resident, self._engine.load(prepared, num_ctx, resident.reading))
                break
            except MemoryError as error:
                if resident.adrift or not (others := self._others(resident.key)):
                    raise _does_not_fit(resident.wanted, error) from None
                await self._make_room(others)
        if not resident.users:
            resident.leaving = True  # who comes now loads it anew
            await self._engine.unload(model)
            raise EngineError(f"nobody waits for {resident.name} any more")
        resident.adrift = False
        if self._engine.missing_bytes(model, num_ctx) > 0:
            _log.warning("%s: no memory for %d tokens of context", resident.name, num_ctx)
        return model

    async def _work(self, resident: Resident, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what a thread does for a load. Others have the turn as soon as it does not get on."""
        task = asyncio.ensure_future(work)
        resident.working = True
        seen, since = resident.reading.progress, time.monotonic()
        try:
            while not (await asyncio.wait({task}, timeout=self._glance))[0]:
                progress, now = resident.reading.progress, time.monotonic()
                if progress != seen:
                    seen, since = progress, now
                stuck = now - since >= self._load_timeout
                if stuck and not resident.stuck:
                    _log.warning("loading %s does not get on; others are loaded meanwhile", resident.name)
                    self._set_adrift(resident)
                if stuck != resident.stuck:
                    resident.stuck = stuck
                    self._notify()
            return task.result()
        finally:
            task.cancel()  # of no effect unless we are cancelled ourselves
            resident.working = resident.stuck = False

    def _set_adrift(self, resident: Resident) -> None:
        resident.adrift = True
        resident.turn.give()

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
        try:
            while victim.users:
                await self._change()
        except asyncio.CancelledError:  # nobody wants the room any more
            victim.leaving = False
            if not victim.users:
                self._rest(victim)
            self._notify()
            raise
        await asyncio.shield(self._background(self._unload(victim)))
        while self._models.get(victim.key) is victim:
            await self._change()

    def _rest(self, resident: Resident) -> None:
        """Nobody uses a model, or waits for it, any more: start its timer, or end its load."""
        if resident.leaving:
            return
        if not resident.loading.done():
            if resident.working:
                self._set_adrift(resident)
                resident.leaving = resident.reading.stop()  # who comes now loads it anew
            else:
                del self._models[resident.key]
                resident.loading.cancel()
        elif not resident.ready:
            return
        elif resident.keep_alive <= 0 or self._too_many > 0:
            self._leave(resident)
        elif not math.isinf(resident.keep_alive):
            loop = asyncio.get_running_loop()
            resident.timer = loop.call_later(resident.keep_alive, self._leave, resident)

    @property
    def _too_many(self) -> int:
        """Models beyond those that there may be, because some came that had been adrift."""
        return sum(resident.ready and not resident.leaving for resident in self._models.values()) - self._most

    def _trim(self) -> None:
        """Let idle models go while there are too many."""
        idle = [resident for resident in self._others("") if not resident.users and not resident.leaving]
        idle.sort(key=lambda resident: resident.used)
        for resident in idle[: max(0, self._too_many)]:
            self._leave(resident)

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
        loading = [resident.loading for resident in self._models.values()]
        for resident in self._models.values():
            if resident.timer is not None:
                resident.timer.cancel()
            if not resident.working:
                resident.loading.cancel()
            elif not resident.loading.done():
                resident.reading.stop()
        if loading:
            await asyncio.wait(loading, timeout=_GRACE)
        for task in loading:
            task.cancel()
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
