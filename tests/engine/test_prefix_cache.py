"""Pages that are shared: who computes what, who waits for whom, what stays and what goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_core import FakeProgram
from step_bench import Bench, pure, running, settle, tokens_of

from ollamapy.engine import Engine
from ollamapy.types import Delta, EngineError, GenerationRequest, SamplingOptions


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for made in running(Bench()):
        yield made


def rows(bench: Bench) -> int:
    return sum(item[2] for step in bench.runner.history for item in step.items)


def cached(deltas: list[Delta]) -> int:
    usage = deltas[-1].usage
    assert usage is not None
    return usage.cached_tokens


TEXT = [1 + (i * 7 + i * i) % 90 for i in range(200)]


async def test_a_later_request_computes_what_is_new(bench: Bench) -> None:
    first = await bench.answer(bench.request(TEXT[:30], predict=5))
    before = rows(bench)
    second = await bench.answer(bench.request([*TEXT[:22], 95, 94, 93], predict=5))
    assert tokens_of(second) == pure([*TEXT[:22], 95, 94, 93], 5)
    assert (cached(first), cached(second)) == (0, 22)  # five pages, and two tokens of a copied one
    assert rows(bench) - before == 3 + 4
    assert second[-1].usage is not None and second[-1].usage.prompt_tokens == 25


async def test_the_last_token_of_a_prompt_is_always_computed(bench: Bench) -> None:
    for length in (1, 4, 8, 9):
        await bench.answer(bench.request(TEXT[:length], predict=2))
        again = await bench.answer(bench.request(TEXT[:length], predict=2))
        assert tokens_of(again) == pure(TEXT[:length], 2)
        assert cached(again) == length - 1


async def test_the_next_turn_of_a_conversation_costs_its_new_tokens(bench: Bench) -> None:
    history = TEXT[:10]
    for turn in range(6):
        before = rows(bench)
        deltas = await bench.answer(bench.request(history, predict=7, seed=turn))
        assert tokens_of(deltas) == pure(history, 7, seed=turn)
        # The last token of the answer before has not been computed yet, five are new, six more are decoded.
        assert rows(bench) - before == (10 if turn == 0 else 1 + 5) + 6
        history = history + tokens_of(deltas) + TEXT[20 * turn : 20 * turn + 5]


async def test_who_arrives_together_computes_a_common_beginning_once(bench: Bench) -> None:
    system = TEXT[:70]
    prompts = [[*system, i, i + 1, i + 2] for i in range(20)]
    tasks = [bench.send(bench.request(prompt, predict=4)) for prompt in prompts]
    answers = await bench.finish(*tasks)
    assert [tokens_of(a) for a in answers] == [pure(prompt, 4) for prompt in prompts]
    assert rows(bench) == 73 + 19 * 3 + 20 * 3
    assert sorted(cached(a) for a in answers) == [0] + [70] * 19


async def test_the_same_prompt_many_times_is_computed_once(bench: Bench) -> None:
    """As branches of one answer are made: each draws by its own seed."""
    prompt = TEXT[:41]
    tasks = [bench.send(bench.request(prompt, predict=6, seed=i)) for i in range(8)]
    answers = await bench.finish(*tasks)
    assert [tokens_of(a) for a in answers] == [pure(prompt, 6, seed=i) for i in range(8)]
    assert rows(bench) == 41 + 7 + 8 * 5


async def test_equal_answers_share_their_pages(bench: Bench) -> None:
    tasks = [bench.send(bench.request(TEXT[:9], predict=40)) for _ in range(5)]
    for _ in range(36):
        await bench.step()
    used = bench.blocks.total[0] - bench.blocks.available[0]
    assert used <= 11 + 5 * 2  # one text of 44 tokens, and for each the page that it writes
    for answer in await bench.finish(*tasks):
        assert tokens_of(answer) == pure(TEXT[:9], 40)


async def test_short_common_beginnings_are_not_waited_for(bench: Bench) -> None:
    tasks = [bench.send(bench.request([1, 2, 3, *[50 + i] * 5], predict=2)) for i in range(2)]
    await settle()
    assert len(bench.runner.history[0].items) == 2
    await bench.finish(*tasks)


async def test_the_leader_leaves_and_a_follower_goes_on(bench: Bench) -> None:
    leader = bench.send(bench.request(TEXT[:80], predict=5))
    follower = bench.send(bench.request([*TEXT[:80], 3], predict=5))
    await bench.step()
    await bench.step()
    leader.cancel()
    answer = (await bench.finish(follower))[0]
    assert tokens_of(answer) == pure([*TEXT[:80], 3], 5)
    assert cached(answer) >= 32
    assert rows(bench) <= 81 + 16 + 4


async def test_a_window_keeps_what_the_next_token_sees() -> None:
    """A conversation goes on after its window has passed; a hit in its middle ends where pages are missing."""
    async for bench in running(Bench((200, 12), FakeProgram(windows=(0, 8)))):
        first = await bench.answer(bench.request(TEXT[:100], predict=4))
        history = TEXT[:100] + tokens_of(first) + [5, 6]
        second = await bench.answer(bench.request(history, predict=4))
        assert tokens_of(second) == pure(history, 4)
        assert cached(second) == 103
        # The early pages of the window have been used for something else since.
        branch = TEXT[:40] + [9] * 9
        third = await bench.answer(bench.request(branch, predict=4))
        assert tokens_of(third) == pure(branch, 4)
        assert cached(third) == 0
        again = await bench.answer(bench.request([*branch, 7], predict=4))
        assert tokens_of(again) == pure([*branch, 7], 4)
        assert cached(again) == 49


async def test_the_text_that_was_idle_longest_goes_first() -> None:
    async for bench in running(Bench((30,))):
        texts = [[i] * 30 for i in (1, 2, 3)]
        for text in texts:
            await bench.answer(bench.request(text, predict=2))
        await bench.answer(bench.request(texts[0], predict=2))
        await bench.answer(bench.request([4] * 40, predict=2))
        assert cached(await bench.answer(bench.request(texts[0], predict=2))) == 29
        assert cached(await bench.answer(bench.request(texts[1], predict=2))) < 29


async def test_without_reuse_nothing_is_shared() -> None:
    async for bench in running(Bench(reuse=False)):
        for _ in range(2):
            answer = await bench.answer(bench.request(TEXT[:30], predict=5))
            assert tokens_of(answer) == pure(TEXT[:30], 5) and cached(answer) == 0
        assert bench.blocks.free == bench.blocks.total


async def test_nobody_builds_on_what_a_failed_step_should_have_computed(bench: Bench) -> None:
    bench.runner.fail_step = lambda step: "no luck" if step.number == 1 else None
    leader = bench.send(bench.request(TEXT[:60], predict=3))
    follower = bench.send(bench.request([*TEXT[:60], 3], predict=3))
    answers = await asyncio.gather(bench.finish(leader), bench.finish(follower), return_exceptions=True)
    assert isinstance(answers[0], EngineError)
    assert not isinstance(answers[1], BaseException)
    assert tokens_of(answers[1][0]) == pure([*TEXT[:60], 3], 3)
    assert rows(bench) >= 60 + 16  # the failed rows again
    after = await bench.answer(bench.request(TEXT[:60], predict=3))
    assert tokens_of(after) == pure(TEXT[:60], 3)


@pytest.mark.parametrize("seed", range(10))
async def test_any_timing_with_common_beginnings(seed: int) -> None:
    """Conversations that branch, arrive and leave at random, steps that fail, pages that run out."""
    dice = random.Random(seed)
    window = dice.choice([1, 3, 8, 11])
    program = FakeProgram(windows=dice.choice([(0, window), (0,), (window,), (window, 0)]))
    pages = tuple(dice.randrange(30, 70) for _ in program.windows)
    async for bench in running(
        Bench(pages, program, rows=dice.choice([1, 5, 16, 50]), most=dice.choice([2, 8]))
    ):
        bench.runner.fail_step = lambda step: "no luck" if dice.random() < 0.02 else None
        bench.runner.fail_item = lambda step, item: "bad" if dice.random() < 0.01 else None
        known: list[list[int]] = [
            [dice.randrange(1, 5) for _ in range(dice.randrange(1, 60))] for _ in range(3)
        ]
        want: dict[asyncio.Task[list[Delta]], list[int]] = {}
        for number in range(40):
            text = dice.choice(known)
            prompt = text[: dice.randrange(1, len(text) + 1)] + [dice.randrange(1, 5)] * dice.randrange(1, 6)
            prompt = prompt[:100]
            predict = dice.randrange(1, 20)
            task = bench.send(bench.request(prompt, predict, seed=number))
            want[task] = pure(prompt, predict, number, program.windows[0])
            known.append(prompt + want[task])
            for _ in range(dice.randrange(4)):
                await settle()
                if bench.runner.queue:
                    bench.runner.step()
            if dice.random() < 0.2:
                dice.choice(list(want)).cancel()
        await asyncio.gather(bench.finish(*want), return_exceptions=True)
        await asyncio.gather(*want, return_exceptions=True)
        done = [task for task in want if not task.cancelled() and task.exception() is None]
        assert len(done) > 10
        for task in done:
            assert tokens_of(task.result()) == want[task]


# The real core

OPTICKS = Path(__file__).resolve().parents[1] / "golden" / "text" / "opticks.txt"


async def collect(model: object, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in model.generate(request)]  # type: ignore[attr-defined]


def bits(deltas: list[Delta]) -> list[tuple[int, float, tuple[float, ...]]]:
    return [(e.token, e.logprob, tuple(t.logprob for t in e.top)) for d in deltas for e in d.logprobs]


@pytest.mark.parametrize(("model", "length"), [("smollm2", 150), ("gemma3", 540)])
async def test_the_same_bits_with_and_without_shared_pages(
    model: str, length: int, request: pytest.FixtureRequest
) -> None:
    """A conversation of two turns and its branches, in any company; Gemma's is longer than its window."""
    path = str(request.getfixturevalue(f"{model}_path"))
    # One thread each: with several, on a busy machine, they mostly wait for each other.
    engines = [
        Engine(1, prefix_cache=cache, kv_memory=128 << 20, prefill_chunk=128) for cache in (False, True)
    ]
    results = []
    for engine in engines:
        await engine.start()
        ours = await engine.load(await engine.prepare(path))
        text = ours.tokenizer.encode(OPTICKS.read_text(encoding="utf-8")[: 8 * length])
        history, answers, hits = text[:length], [], []

        async def ask(prompt: list[int], seed: int, ours: object = ours) -> list[Delta]:
            sampling = SamplingOptions(temperature=0.8 if seed % 2 else 0.0, seed=seed)
            return await collect(ours, GenerationRequest(prompt, sampling, num_predict=8, logprobs=2))

        for turn in range(2):
            prompts = [history, [*history, text[turn]], history[: length - 20 - 11 * turn] + text[:9]]
            found = await asyncio.gather(*(ask(prompt, turn + i) for i, prompt in enumerate(prompts)))
            answers += [bits(deltas) for deltas in found]
            hits += [cached(deltas) for deltas in found]
            history = history + tokens_of(found[0]) + text[length + 10 * turn : length + 10 * turn + 10]
        results.append(answers)
        if engine is engines[0]:
            assert not any(hits)
        else:
            assert hits[3] >= length + 6 and hits[4] >= length + 6 and hits[5] >= length - 40
        await engine.close()
    assert results[0] == results[1]
