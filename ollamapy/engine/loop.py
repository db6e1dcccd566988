"""The step loop: it alone owns the device.

It plans one step ahead: while a step runs in the core, the next is already queued there, its decoding rows
reading the tokens that the running one will sample. A request that ends is therefore found out one step
late; the token too many is dropped. Results come through a file descriptor that the event loop watches. Every token of
every stream comes by here, so a turn of the loop is a callback and not a task that is woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from ollamapy.engine import metrics
from ollamapy.engine.ports import CoreResult, CoreRunner, CoreSequence
from ollamapy.types import EngineError

log = logging.getLogger(__name__)
TRACE = 5  # the level of what is logged for every step


class StepItem(Protocol):
    @property
    def core(self) -> tuple[CoreSequence, int, int, int]: ...


class Lane(Protocol):
    """A queue of work for one program."""

    @property
    def program(self) -> Any: ...
    @property
    def cache(self) -> Any: ...
    @property
    def want_logits(self) -> bool: ...
    @property
    def copies(self) -> list[tuple[int, int, int]]:
        """(group, from, to): pages to be copied before its next step. Who submits that empties the list."""

    def plan(self) -> Sequence[Any]:
        """The items of its next step; empty when it has nothing to do."""

    def finish(self, items: Sequence[Any], result: CoreResult) -> None: ...

    def failed(self, items: Sequence[Any], error: str) -> None: ...

    def fail(self, error: BaseException) -> None:
        """Fail everything that is queued or running."""


class _Share:
    """How much of the device a lane has had."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.busy = False
        self._expected: deque[float] = deque()  # of the steps in flight
        self._usual = 0.0

    def launched(self) -> None:
        self._expected.append(self._usual)
        self.seconds += self._usual

    def landed(self, seconds: float) -> None:
        self.seconds += seconds - self._expected.popleft()
        self._usual = seconds


class StepLoop:
    """Runs the steps of all lanes on one device, each its share of the time."""

    def __init__(self, runner: CoreRunner, ahead: int = 2) -> None:
        """ahead: steps submitted and not finished, the running one included."""
        self._runner = runner
        self._ahead = ahead
        self._lanes: list[Lane] = []
        self._shares: dict[Lane, _Share] = {}
        self._paused: Counter[Lane] = Counter()
        self._flying: dict[int, tuple[Lane, Sequence[StepItem]]] = {}
        self._landed = asyncio.Event()
        self._events: asyncio.AbstractEventLoop | None = None  # while it runs
        self._woken = False  # a turn is coming
        self._context = contextvars.Context()  # not that of the request that wakes it
        self.steps_by_rows: Counter[int] = Counter()  # how many steps had how many rows

    def start(self) -> None:
        self._events = asyncio.get_running_loop()
        self._events.add_reader(self._runner.fileno(), self._turn)
        self.wake()

    async def stop(self) -> None:
        """Fail what is queued, wait for the steps in flight."""
        for lane in list(self._lanes):
            await self.remove(lane, EngineError("the engine was shut down"))
        if self._events is not None:
            self._events.remove_reader(self._runner.fileno())
            self._events = None

    def add(self, lane: Lane) -> None:
        self._lanes.append(lane)
        self._shares[lane] = _Share()

    async def remove(self, lane: Lane, error: BaseException) -> None:
        """Fail what a lane has and wait until no step of it is in flight."""
        if lane in self._lanes:
            self._lanes.remove(lane)
        lane.fail(error)
        await self._drained(lane)
        self._shares.pop(lane, None)

    @contextlib.asynccontextmanager
    async def paused(self, lane: Lane) -> AsyncIterator[None]:
        """While the context is open no step of a lane is in flight."""
        self._paused[lane] += 1
        try:
            await self._drained(lane)
            yield
        finally:
            self._paused[lane] -= 1
            self._paused += Counter()  # drops those that are at zero
            self.wake()

    async def _drained(self, lane: Lane) -> None:
        """Wait until no step of a lane is in flight."""
        while any(flying is lane for flying, _ in self._flying.values()):
            self._landed.clear()
            await self._landed.wait()

    def wake(self) -> None:
        """There is new work."""
        if not self._woken and self._events is not None:
            self._woken = True
            self._events.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._woken = False
        try:
            self._collect()
            self._submit()
        except Exception:
            # A bug of ours must not leave every stream hanging.
            log.exception("the step loop failed")
            for lane in self._lanes:
                lane.fail(EngineError("the engine failed"))

    def _collect(self) -> None:
        for result in self._runner.drain():
            lane, items = self._flying.pop(result.step)
            if lane in self._shares:
                self._shares[lane].landed(result.ended - result.started)
            metrics.STEP_SECONDS.observe(result.ended - result.started)
            try:
                if result.error is None:
                    lane.finish(items, result)
                else:
                    log.error("step %d failed: %s", result.step, result.error)
                    lane.failed(items, result.error)
            except Exception:  # a bug of ours: the results behind this one are others'
                log.exception("the results of a step could not be handed out")
                lane.fail(EngineError("the engine failed"))
            finally:
                self._landed.set()

    def _submit(self) -> None:
        while len(self._flying) < self._ahead:
            # Who had least of the device goes next; one that comes back starts level with those who stayed.
            lanes = [lane for lane in self._lanes if lane not in self._paused]
            if len(lanes) > 1:
                lanes.sort(key=lambda lane: self._shares[lane].seconds)
            level = min(
                (self._shares[lane].seconds for lane in lanes if self._shares[lane].busy), default=None
            )
            for lane in lanes:
                share = self._shares[lane]
                items = lane.plan()
                if items and not share.busy and level is not None:
                    share.seconds = level
                share.busy = bool(items)
                if items:
                    self._launch(lane, items)
                    break
            else:
                return

    def _launch(self, lane: Lane, items: Sequence[StepItem]) -> None:
        try:
            core = [item.core for item in items]
            step = self._runner.submit(lane.program, lane.cache, core, lane.want_logits, lane.copies)
        except (ValueError, MemoryError, RuntimeError) as error:
            log.exception("a step was refused")
            lane.failed(items, str(error))
            return
        lane.copies.clear()
        self._flying[step] = (lane, items)
        self._shares[lane].launched()
        rows = sum(rows for _, _, rows, _ in core)
        if log.isEnabledFor(TRACE):
            log.log(TRACE, "step %d: %d rows of %d requests", step, rows, len(core))
        self.steps_by_rows[rows] += 1
        metrics.STEP_ROWS.observe(rows)
