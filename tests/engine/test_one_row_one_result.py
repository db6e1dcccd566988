"""One row, one result: a request gives the same bits alone and in company, whatever the threads and the
chunks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ollamapy.engine import Engine
from ollamapy.engine.model import Model
from ollamapy.types import GenerationRequest, SamplingOptions

TEXT = Path(__file__).resolve().parents[1] / "golden" / "text" / "opticks.txt"
TOKENS = 24

Answer = list[tuple[int, float, tuple[tuple[int, float], ...]]]  # token, its logprob, the best


@asynccontextmanager
async def loaded(
    path: Path, threads: int, chunk: int, kv_type: str = "f16"
) -> AsyncIterator[tuple[Engine, Model]]:
    engine = Engine(threads, prefill_chunk=chunk, kv_memory=256 << 20, kv_type=kv_type)
    await engine.start()
    try:
        yield engine, await engine.load(await engine.prepare(str(path)))
    finally:
        await engine.close()


def requests(model: Model, streams: int, longest: int) -> list[GenerationRequest]:
    """Prompts of 5 tokens to longest, every other one greedy, the others seeded."""
    text = TEXT.read_text(encoding="utf-8")
    out = []
    for i in range(streams):
        length = 5 + i * (longest - 5) // (streams - 1)
        prompt = model.tokenizer.encode(text[1000 * i : 1000 * i + 8 * longest])[:length]
        sampling = SamplingOptions(temperature=0.0 if i % 2 else 0.9, seed=i, repeat_penalty=1.1)
        out.append(GenerationRequest(prompt, sampling, num_predict=TOKENS, logprobs=3))
    return out


class Progress:
    """Counts the deltas of all streams; others wait until there are some."""

    def __init__(self) -> None:
        self.deltas = 0
        self.waiting: list[tuple[int, asyncio.Event]] = []

    def tick(self) -> None:
        self.deltas += 1
        for at, event in self.waiting:
            if at <= self.deltas:
                event.set()

    async def reach(self, deltas: int) -> None:
        event = asyncio.Event()
        self.waiting.append((deltas, event))
        if self.deltas < deltas:
            await event.wait()


async def answer(model: Model, request: GenerationRequest, progress: Progress) -> Answer:
    out: Answer = []
    async for delta in model.generate(request):
        progress.tick()
        for entry in delta.logprobs:
            best = tuple((t.token, t.logprob) for t in entry.top)
            out.append((entry.token, entry.logprob, best))
    return out


async def alone(model: Model, all_requests: list[GenerationRequest]) -> list[Answer]:
    return [await answer(model, request, Progress()) for request in all_requests]


async def together(model: Model, all_requests: list[GenerationRequest]) -> list[Answer]:
    """Each arrives when a few more tokens of the others have come, the long prompts in between the short
    ones."""
    progress = Progress()

    async def client(number: int, request: GenerationRequest) -> Answer:
        await progress.reach(number)
        return await answer(model, request, progress)

    order = sorted(range(len(all_requests)), key=lambda i: (i * 7) % len(all_requests))
    tasks = {i: asyncio.create_task(client(number, all_requests[i])) for number, i in enumerate(order)}
    await asyncio.gather(*tasks.values())
    return [tasks[i].result() for i in range(len(all_requests))]


# Gemma's longest prompts exceed its window of 512.
@pytest.mark.parametrize(("model", "streams", "longest"), [("smollm2", 32, 200), ("gemma3", 8, 560)])
async def test_streams_give_the_bits_they_give_alone(
    model: str, streams: int, longest: int, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"{model}_path")
    async with loaded(path, threads=2, chunk=256) as (engine, ours):
        asked = requests(ours, streams, longest)
        want = await alone(ours, asked)
        assert all(len(a) >= 1 for a in want)
        assert sum(len(a) for a in want) > streams * TOKENS / 2  # few ended early
        steps = Counter(engine.steps.steps_by_rows)
        assert await together(ours, asked) == want
        batched = engine.steps.steps_by_rows - steps
        full = sum(count for rows, count in batched.items() if rows >= min(8, streams - 2))
        assert full > batched.total() / 2
    for threads, chunk in ((1, 32), (2, 512)):
        async with loaded(path, threads, chunk) as (_, ours):
            assert await together(ours, asked) == want


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
async def test_with_quantized_pages_too(kv_type: str, smollm2_path: Path) -> None:
    async with loaded(smollm2_path, 2, 256, kv_type) as (_, ours):
        asked = requests(ours, 4, 70)
        want = await alone(ours, asked)
    async with loaded(smollm2_path, 1, 32, kv_type) as (_, ours):
        assert await together(ours, asked) == want
