"""What models take of the memory of this process, and give back: cases that test_model_memory.py runs in a process
of their own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollamapy import _core
from ollamapy.engine import Engine
from ollamapy.engine.model import Model
from ollamapy.types import Delta, GenerationRequest, SamplingOptions

MIB = 1 << 20
NOISE = 24 * MIB  # what the vocabulary, the allocator and Python take meanwhile


def resident() -> int:
    """Bytes of memory of this process."""
    _core.release_memory()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    await made.start()
    yield made
    await made.close()


async def ask(model: Model, prompt: list[int], predict: int = 4) -> list[Delta]:
    request = GenerationRequest(prompt, SamplingOptions(temperature=0.0), num_predict=predict, num_ctx=1536)
    return [delta async for delta in model.generate(request)]


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


def cached(deltas: list[Delta]) -> int:
    usage = deltas[-1].usage
    assert usage is not None
    return usage.cached_tokens


async def settled() -> int:
    """Resident bytes once what earlier tests left behind has gone."""
    gc.collect()
    size = resident()
    for _ in range(100):
        await asyncio.sleep(0.1)
        last, size = size, resident()
        if abs(size - last) < MIB // 4:
            break
    return size


@pytest.mark.parametrize("name", ["smollm2", "gemma3", "minilm_gguf"])
async def test_what_a_model_needs_is_known_before_its_weights_are_read(
    engine: Engine, name: str, request: pytest.FixtureRequest
) -> None:
    path = str(request.getfixturevalue(f"{name}_path"))
    before = await settled()
    prepared = await engine.prepare(path)
    weights = prepared.weights.nbytes
    vocabulary = prepared.tokenizer
    others = resident() - before
    assert others < weights
    model = await engine.load(prepared)
    assert abs(resident() - before - others - weights) < NOISE
    assert prepared.weights.nbytes == weights
    # Scratch and pages are promised, and taken when the first step runs.
    assert weights < prepared.fixed_bytes <= prepared.needed_bytes(0) <= prepared.needed_bytes(4096)
    assert model.nbytes == prepared.fixed_bytes
    assert model.nbytes + model.promised_bytes >= prepared.needed_bytes(0)
    await engine.unload(model)
    assert model.nbytes == model.promised_bytes == 0
    del prepared, model, vocabulary
    for _ in range(100):  # a thread that has just handed over its result may hold on to it for a moment
        if resident() - before < NOISE:
            break
        await asyncio.sleep(0.05)
    assert resident() - before < NOISE


async def test_pages_give_their_memory_back_while_the_model_stays(engine: Engine, smollm2_path: Path) -> None:
    model = await engine.load(await engine.prepare(str(smollm2_path)), 1536)
    texts = [[1 + (i * n) % 1000 for i in range(1500)] for n in (7, 11)]
    answers = [await ask(model, text) for text in texts]
    full, pages = resident(), model.kv_bytes
    assert pages > 60 * MIB and cached(await ask(model, texts[0])) == 1499
    promised = model.promised_bytes
    await engine.shrink(model, promised + pages // 3)
    # The text used longest ago went, as far as had to be.
    assert abs(model.kv_bytes - pages * 2 // 3) < 2 * MIB
    assert abs(full - resident() - pages // 3) < NOISE // 2
    assert cached(await ask(model, texts[0])) == 1499
    assert cached(await ask(model, texts[1])) < 1000
    await engine.shrink(model, 1 << 40)
    assert model.spare_bytes == 0 and model.capacity == 1536  # what was asked for last stays possible
    assert [tokens_of(await ask(model, text)) for text in texts] == [tokens_of(a) for a in answers]
    assert model.missing_bytes(8192) > 0
    engine.widen(model, 8192)
    assert model.missing_bytes(8192) == 0 and model.capacity == 8192


async def test_pages_go_under_running_requests_and_change_nothing(engine: Engine, smollm2_path: Path) -> None:
    model = await engine.load(await engine.prepare(str(smollm2_path)))
    beginning = [1 + i % 900 for i in range(700)]
    texts = [[*beginning, 3 * i, 5, 7] for i in range(6)]
    want = [tokens_of(await ask(model, text, 40)) for text in texts]
    await ask(model, [9] * 1400)
    tasks = [asyncio.ensure_future(ask(model, text, 40)) for text in texts]
    taken = 0
    while not all(task.done() for task in tasks):
        before = model.kv_bytes
        await engine.shrink(model, model.spare_bytes)
        taken += before > model.kv_bytes
        await asyncio.sleep(0.01)
        engine.share_out()
    assert taken > 0
    assert [tokens_of(await task) for task in tasks] == want


async def test_vectors_of_a_chat_model_take_memory_only_while_somebody_wants_it(
    engine: Engine, smollm2_path: Path
) -> None:
    model = await engine.load(await engine.prepare(str(smollm2_path)), 1536)
    texts = [[1 + i * n % 900 for i in range(1000)] for n in (3, 7)]
    groups = len(model.load().pages)
    vectors = await model.embed(texts)
    pool = model._embedding_pool
    assert pool is not None and pool.nbytes > 20 * MIB
    assert model.spare_bytes >= pool.limit and len(model.load().pages) == 2 * groups
    assert model._idle_embedding is pool
    busy = asyncio.ensure_future(model.embed(texts))
    for _ in range(1000):
        await asyncio.sleep(0)
        if model.load().running:
            break
    assert model._idle_embedding is None  # not while it is used
    await engine.shrink(model, 1)
    assert model._embedding_pool is pool and (await busy == vectors).all()
    full = await settled()
    del pool
    await engine.shrink(model, 1)
    assert model._embedding_pool is None and len(model.load().pages) == groups
    assert full - await settled() > 15 * MIB
    assert (await model.embed(texts) == vectors).all()


async def test_a_read_can_be_stopped(engine: Engine, smollm2_path: Path) -> None:
    prepared = await engine.prepare(str(smollm2_path))
    prepared.stop()
    before = resident()
    with pytest.raises(RuntimeError, match="the load was given up"):
        await engine.load(prepared)
    assert resident() - before < NOISE
