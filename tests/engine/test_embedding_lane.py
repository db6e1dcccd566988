"""Texts that become vectors: who shares a step, what chunks must not change, what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from fake_core import PAGE, FakeCache, FakeProgram, FakeRunner, FakeSequence, vector
from numpy.typing import NDArray

from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.embedding import EmbeddingLane, Pooling, Text
from ollamapy.engine.loop import StepLoop
from ollamapy.scheduler.fairness import QUANTUM
from ollamapy.types import EngineError


class Bench:
    def __init__(self, pooling: Pooling | None, rows: int = 16, outputs: int = 4, pages: int = 100) -> None:
        self.runner = FakeRunner()
        self.loop = StepLoop(self.runner)
        program = FakeProgram(bidirectional=pooling is None, max_rows=rows)
        self.blocks = BlockManager([0], [pages], PAGE)
        cache = FakeCache((pages,))
        self.lane = EmbeddingLane(program, cache, self.blocks, rows, outputs, FakeSequence, pooling)
        self.loop.add(self.lane)
        self.loop.start()

    async def run(self, texts: list[Text]) -> list[NDArray[np.float32] | BaseException]:
        self.loop.wake()
        for _ in range(1000):
            for _ in range(8):
                await asyncio.sleep(0)
            if self.runner.queue:
                self.runner.step()
            elif all(text.vector.done() for text in texts):
                break
        return await asyncio.gather(*(text.vector for text in texts), return_exceptions=True)

    async def close(self) -> None:
        await self.loop.stop()
        self.runner.close()
        assert self.blocks.free == self.blocks.total


@pytest.fixture
async def bert() -> AsyncIterator[Bench]:
    bench = Bench(None)
    yield bench
    await bench.close()


def pure(tokens: list[int], pooling: Pooling) -> NDArray[np.float32]:
    rows = [vector(tokens[: i + 1], 8).astype(np.float64) for i in range(len(tokens))]
    total = sum(rows[1:], rows[0]) if pooling == "mean" else rows[-1]
    return (total / np.sqrt(np.dot(total, total))).astype(np.float32)


async def test_texts_share_a_step_and_are_never_split(bert: Bench) -> None:
    texts = [[1] * 7, [2] * 9, [3] * 16, [4] * 2, [5], [6], [7], [8]]
    vectors = await bert.run([bert.lane.add(tokens) for tokens in texts])
    steps = [[count for _, _, count, _ in step.items] for step in bert.runner.history]
    assert steps == [[7, 9], [16], [2, 1, 1, 1], [1]]
    for tokens, row in zip(texts, vectors, strict=True):
        assert np.array_equal(row, vector(tokens, 8))


async def test_a_text_waits_for_pages() -> None:
    bench = Bench(None, pages=4)
    texts = [[1] * 8, [2] * 8, [3] * 8]
    vectors = await bench.run([bench.lane.add(tokens) for tokens in texts])
    assert [len(step.items) for step in bench.runner.history] == [2, 1]
    assert all(np.array_equal(v, vector(t, 8)) for v, t in zip(vectors, texts, strict=True))
    await bench.close()


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("rows", [1, 5, 16, 64])
async def test_chunks_do_not_change_the_vector_of_a_causal_model(pooling: Pooling, rows: int) -> None:
    bench = Bench(pooling, rows, outputs=rows)
    texts = [list(range(1, n)) for n in (2, 41, 17, 34)]
    vectors = await bench.run([bench.lane.add(tokens) for tokens in texts])
    for tokens, row in zip(texts, vectors, strict=True):
        assert np.array_equal(row, pure(tokens, pooling))
    await bench.close()


async def test_a_failed_step_fails_its_texts_only(bert: Bench) -> None:
    bert.runner.fail_step = lambda step: "no luck" if step.number == 0 else None
    first, second, third = await bert.run([bert.lane.add([n] * 8) for n in (1, 2, 3)])
    assert isinstance(first, EngineError) and isinstance(second, EngineError)
    assert np.array_equal(third, vector([3] * 8, 8))


async def test_a_client_that_leaves_takes_its_texts_along(bert: Bench) -> None:
    mine = [bert.lane.add([1] * 16) for _ in range(10)]
    other = bert.lane.add([2] * 3)
    bert.loop.wake()
    await asyncio.sleep(0.01)
    bert.lane.cancel(mine)
    [row] = await bert.run([other])
    assert np.array_equal(row, vector([2] * 3, 8))
    assert len(bert.runner.history) == 3  # two were in flight


async def test_unloading_fails_what_waits(bert: Bench) -> None:
    text = bert.lane.add([1] * 3)
    await bert.loop.remove(bert.lane, EngineError("unloaded"))
    with pytest.raises(EngineError, match="unloaded"):
        await text.vector


@pytest.mark.parametrize("pooling", [None, "mean"])
async def test_many_texts_of_one_client_do_not_hold_up_anothers(pooling: Pooling | None) -> None:
    """Another's text waits for a quantum of rows and the steps in flight, not for the thousands before it; its vector
    is the same."""
    bench = Bench(pooling, rows=64, outputs=64)
    many = [bench.lane.add([1 + i % 50] * 8, "many") for i in range(3000)]
    one = bench.lane.add([7] * 8, "one")
    bench.loop.wake()
    while not one.vector.done():
        await asyncio.sleep(0)
        if bench.runner.queue:
            bench.runner.step()
    assert len(bench.runner.history) <= QUANTUM // 64 + 4
    want = pure([7] * 8, pooling) if pooling else vector([7] * 8, 8)
    assert np.array_equal(one.vector.result(), want)
    done = [i for i, text in enumerate(many) if text.vector.done()]
    assert done == list(range(len(done)))  # of one client in order
    bench.lane.cancel(many)
    assert bench.lane.waiting == 0
    await bench.run([])
    await bench.close()


async def test_a_text_that_has_begun_goes_on_though_another_client_waits_for_pages() -> None:
    """Else nobody would ever have pages again."""
    bench = Bench("mean", rows=4, outputs=4, pages=6)
    first = bench.lane.add([1] * 20, "a")
    bench.loop.wake()
    await asyncio.sleep(0.01)
    bench.lane._fair.charge("a", 10 * QUANTUM)
    others = [bench.lane.add([n] * 12, client) for n, client in ((2, "b"), (3, "c"))]
    rows = await bench.run([first, *others])
    for tokens, row in zip(([1] * 20, [2] * 12, [3] * 12), rows, strict=True):
        assert np.array_equal(row, pure(tokens, "mean"))
    await bench.close()
