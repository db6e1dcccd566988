"""When models come and go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from ollamapy.scheduler.residency import DoesNotFitError, Residency, Wanted
from ollamapy.server.duration import FOREVER
from tests.server.fake_engine import FakeEngine

SECONDS = 20.0


def model(key: str) -> Wanted:
    return Wanted(key, key, key)


async def use(
    residency: Residency, key: str, keep_alive: float | None = None, seconds: float = 0.0, num_ctx: int = 0
) -> None:
    async with residency.use(model(key), keep_alive, num_ctx):
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


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


async def gone(engine: FakeEngine, unloads: list[str]) -> None:
    """Wait until so many models were unloaded: on a busy machine that takes its time."""
    await until(lambda: len(engine.unloads) >= len(unloads))
    assert engine.unloads == unloads


async def test_timers() -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, 3)
    await use(residency, "a", 0.5)
    await asyncio.sleep(0.3)
    await use(residency, "a")  # keeps its 0.5 s, which begin anew
    began = time.monotonic()
    await gone(engine, ["a"])
    assert time.monotonic() - began > 0.45
    assert residency.residents() == []
    await use(residency, "a", FOREVER)
    await use(residency, "b", 0)
    await gone(engine, ["a", "b"])
    assert residency.residents()[0].expires == FOREVER
    await residency.close()


async def test_a_model_in_use_stays() -> None:
    engine = FakeEngine()
    residency = Residency(engine, 300, 3)
    async with residency.use(model("a"), 0.01):
        await residency.release("a")
        await asyncio.sleep(0.05)
        assert engine.unloads == []
    await gone(engine, ["a"])
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
        DoesNotFitError, match=r"'big' requires more system memory \(5.0 GiB\) than is available \(2.0 GiB\)"
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
            async with residency.use(model(key), None):
                running += 1
                assert [loaded.path for loaded in engine.models] == [key]
                await asyncio.sleep(0.003)
                assert [loaded.path for loaded in engine.models] == [key]
                running -= 1

    await asyncio.wait_for(asyncio.gather(*(client("ab"[i % 2]) for i in range(6))), 10)
    assert running == 0 and 4 <= len(engine.loads) <= 30
    await residency.close()


async def test_kv_pages_go_before_a_model_does_and_those_of_idle_ones_first() -> None:
    engine = FakeEngine(fits=6)
    engine.sizes |= {"a": 3, "b": 3, "c": 3}
    engine.spare |= {"a": 2, "b": 1}
    residency = Residency(engine, 300, 3)
    async with residency.use(model("a"), None):
        await use(residency, "b")
        await use(residency, "c")
    assert engine.events == ["load a", "load b", "shrink b", "shrink a", "load c"]
    await residency.close()


async def test_kv_pages_stay_when_they_are_not_enough() -> None:
    engine = FakeEngine(fits=6)
    engine.sizes |= {"a": 3, "b": 3, "c": 3}
    engine.spare |= {"a": 1, "b": 1}
    residency = Residency(engine, 300, 3)
    await use(residency, "a")
    await use(residency, "b")
    await use(residency, "c")
    assert engine.events == ["load a", "load b", "unload a", "load c"]
    await residency.close()


async def test_a_load_makes_room_for_its_context_unless_that_never_fits() -> None:
    engine = FakeEngine(fits=4)
    residency = Residency(engine, 300, 3)
    await use(residency, "a")
    await use(residency, "b", num_ctx=20_000)  # 3 GiB: both fit
    await use(residency, "c", num_ctx=30_000)  # 4 GiB: alone
    await use(residency, "d", num_ctx=90_000)  # for ever too much: it gets what there is
    assert engine.events == ["load a", "load b", "unload a", "unload b", "load c", "unload c", "load d"]
    await residency.close()


async def test_a_longer_context_takes_kv_pages_of_others_and_the_place_of_an_idle_model() -> None:
    engine = FakeEngine(fits=4)
    engine.sizes["b"] = 2
    engine.spare["b"] = 1
    residency = Residency(engine, 300, 3)
    await use(residency, "a")
    async with residency.use(model("b"), None):
        await use(residency, "c")
        engine.events.clear()
        await use(residency, "a", num_ctx=18_192)
        assert engine.events == ["shrink b", "widen a"]
        await use(residency, "a", num_ctx=18_192)
        await use(residency, "a", num_ctx=28_192)
        assert engine.events == ["shrink b", "widen a", "unload c", "widen a"]
        await use(residency, "a", num_ctx=90_000)  # busy models do not go for it
        assert engine.events == ["shrink b", "widen a", "unload c", "widen a"]
    await residency.close()


async def test_a_failing_load_leaves_everything_as_it_was() -> None:
    engine = FakeEngine(fits=2)
    residency = Residency(engine, 300, 3)
    await use(residency, "a")
    await use(residency, "b")
    with pytest.raises(OSError, match="cannot be read"):
        await use(residency, "unreadable")
    assert engine.unloads == []
    with pytest.raises(OSError, match="cut short"):
        await use(residency, "broken")
    assert engine.events[-1] == "share out"  # what others did without for it
    assert [r.key for r in residency.residents()] == ["b"]
    await use(residency, "a")
    await residency.close()


async def test_keep_alive_is_the_requests_else_the_models_last_else_the_servers() -> None:
    residency = Residency(FakeEngine(), 300, 3)
    await use(residency, "a")
    assert residency.residents()[0].keep_alive == 300
    await use(residency, "a", 20)
    await use(residency, "a")
    assert residency.residents()[0].keep_alive == 20
    await use(residency, "a", FOREVER)
    await use(residency, "a")
    assert residency.residents()[0].keep_alive == FOREVER
    await use(residency, "a", 0)
    await asyncio.sleep(0.02)
    await use(residency, "a")  # loaded anew: it remembers nothing
    assert residency.residents()[0].keep_alive == 300
    await residency.close()


async def test_a_load_that_nobody_waits_for_is_not_begun() -> None:
    engine = FakeEngine(fits=1)
    residency = Residency(engine, 300, 3)
    async with residency.use(model("a"), None):
        first = asyncio.ensure_future(use(residency, "b"))
        second = asyncio.ensure_future(use(residency, "c"))
        await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.sleep(0)
    await first
    await asyncio.sleep(0.02)
    assert engine.loads == ["a", "b"]
    await residency.close()
