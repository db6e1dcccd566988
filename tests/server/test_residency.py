"""When models come and go."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ollamapy.scheduler.residency import DoesNotFitError, Residency
from ollamapy.server.duration import FOREVER
from ollamapy.types import EngineError
from tests.server.fake_engine import FakeEngine


async def use(residency: Residency, key: str, keep_alive: float | None = None, seconds: float = 0.0) -> None:
    async with residency.use(key, key, key, keep_alive):
        await asyncio.sleep(seconds)


async def test_concurrent_first_requests_load_once() -> None:
    engine = FakeEngine(load_seconds=0.05)
    residency = Residency(engine, 300, 3)
    await asyncio.gather(*[use(residency, "a") for _ in range(10)])
    assert engine.loads == ["a"]
    assert [r.key for r in residency.residents()] == ["a"]
    await residency.close()


async def test_a_leaving_client_does_not_take_the_load_away() -> None:
    engine = FakeEngine(load_seconds=0.1)
    residency = Residency(engine, 300, 3)
    first = asyncio.ensure_future(use(residency, "a"))
    second = asyncio.ensure_future(use(residency, "a"))
    await asyncio.sleep(0.02)
    first.cancel()
    await second
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert engine.loads == ["a"]
    await residency.close()


async def test_timers() -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, 3)
    await use(residency, "a", 0.1)
    await asyncio.sleep(0.05)
    await use(residency, "a")  # keeps its 0.1 s, which begin anew
    await asyncio.sleep(0.07)
    assert engine.unloads == []
    await asyncio.sleep(0.1)
    assert engine.unloads == ["a"]
    assert residency.residents() == []
    await use(residency, "a", FOREVER)
    await use(residency, "b", 0)
    await asyncio.sleep(0.02)
    assert engine.unloads == ["a", "b"]
    assert residency.residents()[0].expires == FOREVER
    await residency.close()


async def test_a_model_in_use_stays() -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, 3)
    async with residency.use("a", "a", "a", 0.01):
        await residency.release("a")
        await asyncio.sleep(0.05)
        assert engine.unloads == []
    await asyncio.sleep(0.02)
    assert engine.unloads == ["a"]
    await residency.release("never loaded")
    await residency.close()


async def test_the_longest_idle_makes_room() -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, most=2)
    await use(residency, "a")
    await asyncio.sleep(0.01)
    await use(residency, "b")
    await asyncio.sleep(0.01)
    await use(residency, "a")
    await use(residency, "c")
    assert engine.unloads == ["b"]
    await residency.close()


async def test_what_does_not_fit_is_refused_with_figures_and_nothing_goes_for_it() -> None:
    engine = FakeEngine(fits=2)
    engine.sizes["big"] = 5
    residency = Residency(engine, 300, 3)
    await use(residency, "a")
    with pytest.raises(
        DoesNotFitError, match=r"'big' requires more system memory \(5.0 GiB\) than is .* \(2.0"
    ):
        await use(residency, "big")
    assert engine.unloads == []
    assert [r.key for r in residency.residents()] == ["a"]
    await residency.close()


@pytest.mark.parametrize("limit", ["memory", "count"])
async def test_two_models_with_room_for_one_take_turns(limit: str) -> None:
    """Nobody fails, nobody is unloaded under a user, and nobody waits for ever."""
    engine = FakeEngine(fits=1 if limit == "memory" else 9, load_seconds=0.001)
    residency = Residency(engine, 300, most=3 if limit == "memory" else 1)
    running = 0

    async def client(key: str) -> None:
        nonlocal running
        for _ in range(5):
            async with residency.use(key, key, key, None):
                running += 1
                assert engine.loaded == 1
                await asyncio.sleep(0.003)
                assert engine.loads[-1] == key
                running -= 1

    await asyncio.wait_for(asyncio.gather(*(client("ab"[i % 2]) for i in range(6))), 10)
    assert running == 0 and 4 <= len(engine.loads) <= 30
    await residency.close()


async def test_a_load_that_nobody_waits_for_is_not_begun() -> None:
    engine = FakeEngine(fits=1)
    residency = Residency(engine, 300, 3)
    async with residency.use("a", "a", "a", None):
        first = asyncio.ensure_future(use(residency, "b"))
        second = asyncio.ensure_future(use(residency, "c"))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0)
    await first
    await asyncio.sleep(0.02)
    assert engine.loads == ["a", "b"]
    await residency.close()


async def test_slow_loads_end() -> None:
    residency = Residency(FakeEngine(load_seconds=5), 300, 3, load_timeout=0.05)
    with pytest.raises(EngineError, match="takes longer"):
        await use(residency, "a")
    await residency.close()
