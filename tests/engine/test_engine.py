"""The engine on real models: what a caller of the protocol sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ollamapy.engine import Engine
from ollamapy.engine.metrics import PREEMPTIONS
from ollamapy.engine.model import Model
from ollamapy.types import (
    ContextLengthError,
    Delta,
    EngineError,
    GenerationRequest,
    RequestError,
    SamplingOptions,
)

GREEDY = SamplingOptions(temperature=0.0)
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(kv_memory=64 << 20)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def smollm2(engine: Engine, smollm2_path: Path) -> Model:
    return await engine.load(await engine.prepare(str(smollm2_path)))


async def collect(model: Model, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in model.generate(request)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def tokens_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


def ask(model: Model, text: str = QUESTION, **more: object) -> GenerationRequest:
    options: dict[str, object] = {"sampling": GREEDY, "num_predict": 24} | more
    return GenerationRequest(model.tokenizer.encode(text), **options)  # type: ignore[arg-type]


async def test_a_model_tells_what_it_is(smollm2: Model) -> None:
    assert (smollm2.architecture, smollm2.context_length, smollm2.embedding_length) == ("llama", 8192, 576)
    assert smollm2.can_generate and smollm2.can_embed
    assert smollm2.nbytes > 50 << 20


async def test_an_answer_in_pieces(smollm2: Model) -> None:
    deltas = await collect(smollm2, ask(smollm2))
    assert "Paris" in text_of(deltas)
    assert len(deltas) > 4
    assert smollm2.tokenizer.decode(tokens_of(deltas)).decode() == text_of(deltas)
    usage = deltas[-1].usage
    assert deltas[-1].done_reason == "stop" and usage is not None
    assert usage.prompt_tokens == len(ask(smollm2).prompt)
    assert usage.completion_tokens == len(tokens_of(deltas)) + 1  # the end token counts
    assert 0 < usage.prompt_ns < usage.total_ns and 0 < usage.completion_ns < usage.total_ns


async def test_a_seed_repeats_an_answer_and_none_does_not(smollm2: Model) -> None:
    def hot(seed: int | None) -> GenerationRequest:
        return ask(
            smollm2, "Once upon a time", sampling=SamplingOptions(temperature=1.2, top_p=1.0, seed=seed)
        )

    seeded = [text_of(await collect(smollm2, hot(7))) for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert seeded[0] != text_of(await collect(smollm2, hot(8)))
    assert len({text_of(await collect(smollm2, hot(None))) for _ in range(3)}) == 3


async def test_stop_sequences_end_an_answer(smollm2: Model) -> None:
    whole = text_of(await collect(smollm2, ask(smollm2)))
    at = whole.index("Paris")
    deltas = await collect(smollm2, ask(smollm2, stop=(whole[at - 2 : at + 3],)))
    assert text_of(deltas) == whole[: at - 2]
    assert (deltas[-1].done_reason, deltas[-1].stop) == ("stop", whole[at - 2 : at + 3])


async def test_limits(smollm2: Model) -> None:
    deltas = await collect(smollm2, ask(smollm2, "Once upon a time", num_predict=5))
    assert len(tokens_of(deltas)) == 5 and deltas[-1].done_reason == "length"
    deltas = await collect(smollm2, ask(smollm2, "Once upon a time", num_ctx=16, shift=False, num_predict=-1))
    assert len(tokens_of(deltas)) + 4 == 16 and deltas[-1].done_reason == "length"
    deltas = await collect(smollm2, ask(smollm2, "Once upon a time", num_ctx=16, num_predict=40))
    assert len(tokens_of(deltas)) == 40 and deltas[-1].done_reason == "length"


async def test_a_long_prompt_is_cut_or_refused(smollm2: Model) -> None:
    prompt = smollm2.tokenizer.encode("word " * 400)
    request = GenerationRequest(prompt, GREEDY, num_ctx=256, num_predict=3)
    deltas = await collect(smollm2, request)
    assert deltas[-1].usage is not None and deltas[-1].usage.prompt_tokens == 256 - (256 - 4) // 2
    for refusing in ({"truncate": False}, {"shift": False}):
        with pytest.raises(ContextLengthError, match=f"{len(prompt)} tokens, the context length is 256"):
            smollm2.generate(GenerationRequest(prompt, GREEDY, num_ctx=256, **refusing))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [([], {}), ([49152], {}), ([-1], {}), ([5], {"temperature": float("nan")}), ([5], {"top_k": 1.5})],
)
async def test_a_request_that_cannot_be_is_refused(
    smollm2: Model, prompt: list[int], options: dict[str, object]
) -> None:
    with pytest.raises(RequestError):
        smollm2.generate(GenerationRequest(prompt, SamplingOptions(**options)))  # type: ignore[arg-type]


async def test_who_leaves_gives_everything_back(smollm2: Model, engine: Engine) -> None:
    stream = smollm2.generate(ask(smollm2, "Once upon a time", num_predict=1000))
    await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0.5)
    steps = engine.steps.steps_by_rows.total()
    await asyncio.sleep(0.3)
    assert engine.steps.steps_by_rows.total() == steps < 200


async def test_preempted_requests_say_what_they_say_with_memory_enough(
    smollm2: Model, smollm2_path: Path
) -> None:
    requests = [
        ask(smollm2, f"Story {i}:", sampling=SamplingOptions(temperature=0.7, seed=i), num_predict=64)
        for i in range(5)
    ]
    want = await asyncio.gather(*(collect(smollm2, request) for request in requests))
    before = PREEMPTIONS._value.get()
    small = Engine(kv_memory=8 * 30 * 2 * 192 * 2 * 32)  # eight pages for five streams of up to three
    await small.start()
    tight = await small.load(await small.prepare(str(smollm2_path)))
    got = await asyncio.gather(*(collect(tight, request) for request in requests))
    preemptions = PREEMPTIONS._value.get() - before
    await small.close()
    assert preemptions > 0
    assert [tokens_of(deltas) for deltas in got] == [tokens_of(deltas) for deltas in want]


async def test_a_chat_model_embeds_whatever_the_chunks(smollm2: Model, smollm2_path: Path) -> None:
    texts = ["The sky is blue.", "Blue is the colour of the sky. " * 20, "def add(a, b): return a + b"]
    inputs = [smollm2.tokenizer.encode(text) for text in texts]
    vectors = await smollm2.embed(inputs)
    assert vectors.shape == (3, 576)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    other = Engine(threads=1, prefill_chunk=16, kv_memory=64 << 20)
    await other.start()
    again = await (await other.load(await other.prepare(str(smollm2_path)))).embed(inputs[::-1])
    await other.close()
    assert np.array_equal(again[::-1], vectors)


async def test_an_embedding_model_gives_the_same_vectors_in_company(
    engine: Engine, minilm_gguf_path: Path
) -> None:
    minilm = await engine.load(await engine.prepare(str(minilm_gguf_path)))
    assert (minilm.architecture, minilm.context_length, minilm.embedding_length) == ("bert", 512, 384)
    assert minilm.can_embed and not minilm.can_generate
    inputs = [minilm.tokenizer.encode(f"number {i} " * (1 + i % 40)) for i in range(90)]
    inputs = [tokens[:512] for tokens in inputs]
    vectors = await minilm.embed(inputs)
    alone = np.concatenate([await minilm.embed([tokens]) for tokens in inputs[::9]])
    assert np.array_equal(vectors[::9], alone)
    assert (await minilm.embed([])).shape == (0, 384)
    with pytest.raises(RequestError, match="does not generate"):
        minilm.generate(GenerationRequest([101, 102]))
    with pytest.raises(ContextLengthError):
        await minilm.embed([[101] * 513])


async def test_two_models_answer_side_by_side(smollm2: Model, engine: Engine, gemma3_path: Path) -> None:
    gemma3 = await engine.load(await engine.prepare(str(gemma3_path)))
    counting = ask(gemma3, "1, 2, 3, 4, 5, 6, 7,", num_predict=8)
    first = await collect(gemma3, counting)
    assert text_of(first).startswith(" 8, 9,")
    got = await asyncio.gather(
        collect(gemma3, counting),
        collect(smollm2, ask(smollm2)),
    )
    assert tokens_of(got[0]) == tokens_of(first)
    assert "Paris" in text_of(got[1])


async def test_unloading_ends_what_runs(smollm2: Model, engine: Engine) -> None:
    stream = smollm2.generate(ask(smollm2, "Once upon a time", num_predict=1000))
    await anext(stream)
    await engine.unload(smollm2)
    with pytest.raises(EngineError, match="unloaded"):
        async for _ in stream:
            pass
    assert smollm2.nbytes == 0
    with pytest.raises(EngineError, match="unloaded"):
        await anext(smollm2.generate(ask(smollm2)))
