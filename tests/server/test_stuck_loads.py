"""Loads that do not end, or that nobody waits for any more. What blocks here are real threads."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from ollamapy.scheduler.reading import Reading
from ollamapy.scheduler.residency import MOST_ADRIFT, DoesNotFitError, Residency
from ollamapy.types import EngineError
from tests.server.fake_engine import FakeEngine
from tests.server.test_residency import SECONDS, model, until, use

TIMEOUT = 0.8  # of loads: a busy machine may keep a thread from computing for some of that


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a load waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def residency(engine: FakeEngine) -> AsyncIterator[Residency]:
    made = Residency(engine, 300, 3, TIMEOUT)
    yield made
    await made.close()


async def leave(task: asyncio.Future[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def busy(gate: threading.Event) -> Callable[[], None]:
    """A thread that computes until the gate opens."""

    def work() -> None:
        while not gate.is_set():
            sum(range(1000))

    return work


def names(residency: Residency) -> list[str]:
    return sorted(resident.name for resident in residency.residents())


@pytest.mark.parametrize("phase", ["header", "weights"])
async def test_a_stuck_load_fails_its_clients_and_holds_up_nobody_else(
    phase: str, engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    (engine.blocking_header if phase == "header" else engine.blocking)["stuck"] = gate.wait
    first, second = (asyncio.ensure_future(use(residency, "stuck")) for _ in range(2))
    other = asyncio.ensure_future(use(residency, "other"))
    for client in (first, second):
        with pytest.raises(EngineError, match=r"loading stuck has made no progress for 0\.8 s"):
            await client
    await other
    with pytest.raises(EngineError, match="no progress"):
        await asyncio.wait_for(use(residency, "stuck"), SECONDS)  # at once: it is no better yet
    assert names(residency) == ["other"]
    gate.set()
    await until(lambda: residency.keys() == {"other"})
    assert engine.unloads == ([] if phase == "header" else ["stuck"])  # nobody had waited for it
    await use(residency, "stuck")
    assert names(residency) == ["other", "stuck"]


async def test_a_load_that_gets_on_may_take_long(
    engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    engine.blocking["slow"] = busy(gate)
    client = asyncio.ensure_future(use(residency, "slow"))
    await asyncio.sleep(3 * TIMEOUT)
    assert not client.done()
    gate.set()
    await client
    assert names(residency) == ["slow"]


async def test_a_load_that_gets_on_again_is_waited_for(
    engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    answers = threading.Event()

    def read() -> None:
        answers.wait()
        busy(gate)()

    engine.blocking["a"] = read
    with pytest.raises(EngineError, match="no progress"):
        await use(residency, "a")
    answers.set()
    await until(lambda: not residency._models["a"].stuck)
    client = asyncio.ensure_future(use(residency, "a"))
    await asyncio.sleep(0.01)
    gate.set()
    await client
    assert engine.loads == ["a"] and names(residency) == ["a"]


async def test_what_a_stuck_load_has_been_promised_is_nobody_elses(gate: threading.Event) -> None:
    """It takes it when its disk answers again."""
    engine = FakeEngine(fits=4)
    engine.sizes |= {"stuck": 3, "big": 2}
    engine.blocking["stuck"] = gate.wait
    residency = Residency(engine, 300, 3, TIMEOUT)
    with pytest.raises(EngineError, match="no progress"):
        await use(residency, "stuck")
    await use(residency, "small")
    with pytest.raises(DoesNotFitError, match=r"\(2\.0 GiB\) than is available \(1\.0 GiB\)"):
        await use(residency, "big")
    assert names(residency) == ["small"]
    gate.set()
    await until(lambda: engine.unloads)
    await use(residency, "big")
    await residency.close()


async def test_stuck_loads_are_bounded(engine: FakeEngine, gate: threading.Event) -> None:
    residency = Residency(engine, 300, 3, 0.02)
    last = threading.Event()
    for i in range(MOST_ADRIFT + 10):
        engine.blocking_header[f"stuck {i}"] = last.wait if i == 0 else gate.wait
    before = threading.active_count()
    clients = [asyncio.ensure_future(use(residency, f"stuck {i}")) for i in range(MOST_ADRIFT + 10)]
    results = await asyncio.wait_for(asyncio.gather(*clients, return_exceptions=True), 4 * SECONDS)
    assert all(isinstance(result, EngineError) for result in results)
    assert threading.active_count() - before == MOST_ADRIFT
    with pytest.raises(EngineError, match=f"{MOST_ADRIFT} models are being loaded and make no progress"):
        await use(residency, "other")
    last.set()
    await until(lambda: not residency.keys() & {"stuck 0"})
    await use(residency, "other")
    assert names(residency) == ["other"]
    gate.set()
    await residency.close()


@pytest.mark.parametrize("come_back", [False, True])
async def test_a_model_that_nobody_waits_for_goes_when_its_load_ends(
    come_back: bool, engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    engine.blocking["a"] = busy(gate)
    clients = [asyncio.ensure_future(use(residency, "a", 10_000)) for _ in range(2)]
    await until(lambda: engine.loads == ["a"])
    for client in clients:
        await leave(client)
    await use(residency, "b")  # its turn has come
    again = asyncio.ensure_future(use(residency, "a")) if come_back else None
    await asyncio.sleep(0.01)
    gate.set()
    if again is not None:
        await again
        assert engine.events == ["load a", "load b"] and names(residency) == ["a", "b"]
    else:
        await until(lambda: residency.keys() == {"b"})
        assert engine.unloads == ["a"]


@pytest.mark.parametrize("come_back", [False, True])
async def test_a_load_that_nobody_waits_for_is_stopped(
    come_back: bool, engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    """Who comes meanwhile loads it anew."""
    stopped = threading.Event()

    def read() -> None:
        stopped.wait()
        gate.wait()
        raise RuntimeError("the load was given up")

    engine.blocking["a"], engine.stops["a"] = read, stopped.set
    client = asyncio.ensure_future(use(residency, "a"))
    await until(lambda: engine.loads == ["a"])
    await leave(client)
    assert stopped.is_set() and not names(residency)
    del engine.blocking["a"]
    again = asyncio.ensure_future(use(residency, "a")) if come_back else None
    await use(residency, "b")
    gate.set()
    await until(lambda: engine.reserved == 0)
    if again is not None:
        await again
    else:
        await until(lambda: residency.keys() == {"b"})
    assert engine.loads == ["a", "b", "a"][: 2 + come_back] and not engine.unloads


async def test_a_load_that_cannot_be_stopped_holds_nobody_up_for_ever(
    engine: FakeEngine, residency: Residency, gate: threading.Event
) -> None:
    engine.blocking["a"], engine.stops["a"] = gate.wait, lambda: None
    client = asyncio.ensure_future(use(residency, "a"))
    await until(lambda: engine.loads == ["a"])
    await leave(client)
    with pytest.raises(EngineError, match="no progress"):
        await asyncio.wait_for(use(residency, "a"), SECONDS)
    gate.set()
    await until(lambda: engine.unloads)
    await asyncio.wait_for(use(residency, "a"), SECONDS)
    assert engine.loads == ["a", "a"] and engine.unloads == ["a"]


async def test_a_model_waits_for_the_room_of_one_that_nobody_waits_for(gate: threading.Event) -> None:
    """It is not refused, and no other goes for it."""
    engine = FakeEngine(fits=5)
    engine.sizes |= {"a": 4, "c": 4}
    residency = Residency(engine, 300, 3)
    await use(residency, "b")
    engine.blocking["a"] = busy(gate)
    first = asyncio.ensure_future(use(residency, "a"))
    await until(lambda: "a" in engine.loads)
    await leave(first)
    second = asyncio.ensure_future(use(residency, "c"))
    await asyncio.sleep(0.02)
    assert not second.done()
    gate.set()
    await asyncio.wait_for(second, SECONDS)
    assert engine.events == ["load b", "load a", "unload a", "share out", "load c"]
    await residency.close()


async def test_a_model_that_is_to_make_room_stays_when_nobody_wants_the_room_any_more() -> None:
    engine = FakeEngine(fits=1)
    residency = Residency(engine, 0.05, 3)
    async with residency.use(model("a"), None):
        other = asyncio.ensure_future(use(residency, "b"))
        await until(lambda: residency._models["a"].leaving)
        again = asyncio.ensure_future(use(residency, "a"))
        await leave(other)
        assert residency.keys() == {"a"}
        await asyncio.wait_for(again, SECONDS)
    assert engine.events == ["load a", "share out"]
    await until(lambda: engine.unloads == ["a"])  # by its timer
    await use(residency, "c")
    await residency.close()


async def test_models_beyond_the_limit_go_as_soon_as_they_are_idle(gate: threading.Event) -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, most=1)
    engine.blocking["a"] = busy(gate)
    first = asyncio.ensure_future(use(residency, "a"))
    await until(lambda: engine.loads)
    await leave(first)
    async with residency.use(model("b"), None):
        second = asyncio.ensure_future(use(residency, "a", seconds=0.05))
        await asyncio.sleep(0.01)
        gate.set()
        await until(lambda: names(residency) == ["a", "b"])  # both are used
        await second
        await until(lambda: names(residency) == ["b"])
    await residency.close()


async def test_closing_does_not_wait_for_a_stuck_load(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, gate: threading.Event
) -> None:
    monkeypatch.setattr("ollamapy.scheduler.residency._GRACE", 0.05)
    residency = Residency(engine, 300, 3)
    engine.blocking["stuck"] = gate.wait
    client = asyncio.ensure_future(use(residency, "stuck"))
    await until(lambda: engine.loads)
    await asyncio.wait_for(residency.close(), SECONDS)
    with contextlib.suppress(asyncio.CancelledError):
        await client
    assert residency.keys() == set()


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_comes_and_goes_nothing_is_left(seed: int) -> None:
    """Clients that leave at any moment, disks that stall, little room: everybody comes to an end, and the server is as
    it was."""
    chance = random.Random(seed)
    engine = FakeEngine(fits=chance.choice([2, 4]))
    keys = "abcd"
    engine.sizes |= {key: chance.choice([1, 1, 2]) for key in keys}
    residency = Residency(engine, chance.choice([0, 0.01, 300]), chance.choice([1, 3]), 0.05)

    def read() -> None:
        time.sleep(chance.choice([0.0, 0.001, 0.01, 0.2]))

    engine.blocking |= dict.fromkeys(keys, read)
    engine.blocking_header |= dict.fromkeys(keys, read)

    async def client() -> None:
        for _ in range(6):
            await asyncio.sleep(chance.random() / 50)
            visit = asyncio.ensure_future(use(residency, chance.choice(keys), seconds=chance.random() / 50))
            if chance.random() < 0.5:
                await asyncio.wait({visit}, timeout=chance.random() / 20)
                visit.cancel()
            # It does not fit while one that is stuck keeps its room.
            with contextlib.suppress(asyncio.CancelledError, EngineError, DoesNotFitError):
                await visit
            assert len(engine.models) == len(set(m.path for m in engine.models))

    await in_time(residency, asyncio.gather(*(client() for _ in range(10))))
    await until(lambda: all(r.ready for r in residency._models.values()))
    await until(lambda: engine.reserved == 0 and not residency._leaving)
    assert sorted(names(residency)) == sorted(m.path for m in engine.models)
    assert not any(r.leaving or r.users or r.adrift or r.working for r in residency._models.values())
    assert not residency._loads.locked()
    for key in keys:
        await in_time(residency, use_patiently(residency, key))
    await residency.close()


async def in_time(residency: Residency, work: Awaitable[object]) -> None:
    try:
        await asyncio.wait_for(work, SECONDS)
    except asyncio.TimeoutError:
        state = [
            (r.name, r.users, r.leaving, r.adrift, r.stuck, r.loading) for r in residency._models.values()
        ]
        pytest.fail(f"somebody waits for ever: {state}")


async def use_patiently(residency: Residency, key: str) -> None:
    while True:
        with contextlib.suppress(EngineError, DoesNotFitError):
            return await use(residency, key)
        await asyncio.sleep(0.01)


async def test_a_reading_tells_whether_it_gets_on(gate: threading.Event) -> None:
    for function, gets_on in ((gate.wait, False), (busy(gate), True)):
        gate.clear()
        reading = Reading()
        work = asyncio.ensure_future(reading.run(function))
        await asyncio.sleep(0.05)
        before = reading.progress
        await asyncio.sleep(0.1)
        assert (reading.progress > before) == gets_on
        gate.set()
        await work
        await until(lambda reading=reading: reading.progress == 0.0)  # the thread is gone
    with pytest.raises(OSError, match="no such disk"):
        await Reading().run(fail)


def fail() -> None:
    raise OSError("no such disk")
