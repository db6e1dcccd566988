"""A step loop on the fake core, a model and its clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from fake_core import (
    END,
    PAGE,
    FakeCache,
    FakeDetokenizer,
    FakeProgram,
    FakeRunner,
    FakeSequence,
    FakeTokenizer,
    first_seen,
    hashed,
)

from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.generation import Generation, Limits
from ollamapy.engine.lane import GenerationLane
from ollamapy.engine.loop import StepLoop
from ollamapy.engine.stream import TextStream
from ollamapy.scheduler.cost import StepCost
from ollamapy.types import Delta


async def settle() -> None:
    """Let the loop and its readers see what happened."""
    for _ in range(8):
        await asyncio.sleep(0)


class NoClock(StepCost):
    """Steps here end when a test says so: what they take means nothing."""

    known = False


class Bench:
    """A step loop, a model and its clients."""

    def __init__(
        self,
        pages: tuple[int, ...] = (1000,),
        program: FakeProgram | None = None,
        rows: int = 16,
        most: int = 64,
        reuse: bool = True,
        cost: StepCost | None = None,
        beside: Bench | None = None,
    ) -> None:
        """beside: another model's bench, on whose device this one is."""
        self.runner = beside.runner if beside else FakeRunner()
        self.loop = beside.loop if beside else StepLoop(self.runner)
        self.program = program or FakeProgram()
        self.blocks = BlockManager(self.program.windows, pages, PAGE, reuse)
        self.lane = GenerationLane(self.program, FakeCache(pages), self.blocks, rows, most, cost or NoClock())
        self.loop.add(self.lane)
        self.tokenizer = FakeTokenizer()
        self.arrivals = itertools.count()
        self.clients: list[asyncio.Task[list[Delta]]] = []

    def request(
        self,
        prompt: list[int],
        predict: int = 10,
        ctx: int = 10_000,
        keep: int = 2,
        shift: bool = True,
        seed: int = 0,
        stop: tuple[str, ...] = (),
        client: str = "",
    ) -> Generation:
        stream = TextStream(self.tokenizer, FakeDetokenizer(self.tokenizer), stop)
        limits = Limits(ctx, keep, predict, shift)

        def sequence(tokens: list[int], branch: int) -> FakeSequence:
            return FakeSequence(tokens, seed + 1000 * branch)

        return Generation(
            next(self.arrivals), client, list(prompt), limits, stream, frozenset([END]), sequence, self.blocks
        )

    def send(self, job: Generation) -> asyncio.Task[list[Delta]]:
        async def client() -> list[Delta]:
            deltas = []
            try:
                while not deltas or deltas[-1].done_reason is None:
                    deltas.append(await job.next())
            finally:
                self.lane.cancel(job)
                self.loop.wake()
            return deltas

        self.lane.add(job)
        self.loop.wake()
        task = asyncio.create_task(client())
        self.clients.append(task)
        return task

    async def step(self) -> list[tuple[int, int]]:
        """End one step; returns what it ran: (first position, rows) of each item."""
        await settle()
        step = self.runner.step()
        await settle()
        return [(start, count) for _, start, count, _ in step.items]

    async def finish(self, *tasks: asyncio.Task[list[Delta]]) -> list[list[Delta]]:
        for _ in range(10_000):
            await settle()
            if all(task.done() for task in tasks):
                break
            if self.runner.queue:
                self.runner.step()
        return [await asyncio.wait_for(task, 1) for task in tasks]

    async def answer(self, job: Generation) -> list[Delta]:
        return (await self.finish(self.send(job)))[0]

    async def idle(self) -> None:
        """Run what is in flight; then everything must have been given back."""
        while True:
            await settle()
            if not self.runner.queue:
                break
            self.runner.step()
        assert self.blocks.available == self.blocks.total
        assert (self.lane.running, self.lane.waiting) == (0, 0)


async def running(made: Bench) -> AsyncIterator[Bench]:
    made.loop.start()
    yield made
    await made.idle()
    await made.loop.stop()
    made.runner.close()


def pure(prompt: list[int], count: int, seed: int = 0, window: int = 0) -> list[int]:
    """What the fake model answers, without pages, steps or company."""
    tokens = list(prompt)
    for _ in range(count):
        seen = tokens[first_seen(len(tokens) - 1, window) :]
        tokens.append(hashed(seen, seed, len(tokens)))
    return tokens[len(prompt) :]


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]
