"""The step loop with a core whose steps end when a test says so: who runs when, what is dropped, what comes
back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from fake_core import END, FakeProgram
from step_bench import Bench, pure, running, settle, tokens_of

from ollamapy.types import Delta, EngineError


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async for made in running(Bench()):
        yield made


# One request


async def test_an_answer(bench: Bench) -> None:
    deltas = await bench.answer(bench.request([5, 6, 7], predict=4))
    assert tokens_of(deltas) == pure([5, 6, 7], 4)
    assert "".join(d.text for d in deltas) == "".join(chr(31 + t) for t in pure([5, 6, 7], 4))
    last = deltas[-1]
    assert (last.text, last.done_reason) == ("", "length")
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 4)
    assert last.usage.prompt_ns > 0 and last.usage.completion_ns > 0
    assert last.usage.total_ns >= last.usage.prompt_ns + last.usage.completion_ns


async def test_prefill_goes_in_chunks_and_the_next_step_is_queued_ahead(bench: Bench) -> None:
    task = bench.send(bench.request(list(range(1, 41)), predict=3))
    await settle()
    assert len(bench.runner.queue) == 2  # one runs, one waits behind it
    assert [await bench.step() for _ in range(5)] == [[(0, 16)], [(16, 16)], [(32, 8)], [(40, 1)], [(41, 1)]]
    assert not bench.runner.queue  # a limit is known beforehand: no row too many
    assert tokens_of(await task) == pure(list(range(1, 41)), 3)


async def test_a_token_too_many_after_the_end_is_dropped() -> None:
    program = FakeProgram(rule=lambda tokens, seed, position: END if position == 5 else 9)
    async for bench in running(Bench(program=program)):
        deltas = await bench.answer(bench.request([1, 2, 3]))
        assert tokens_of(deltas) == [9, 9]
        assert deltas[-1].done_reason == "stop"
        assert deltas[-1].usage is not None and deltas[-1].usage.completion_tokens == 3
        await bench.idle()
        assert sum(item[2] for step in bench.runner.history for item in step.items) == 3 + 2 + 1


async def test_a_stop_sequence_ends_the_answer(bench: Bench) -> None:
    text = "".join(chr(31 + t) for t in pure([5], 10))
    deltas = await bench.answer(bench.request([5], stop=(text[4:6],)))
    assert "".join(d.text for d in deltas) == text[:4]
    assert (deltas[-1].done_reason, deltas[-1].stop) == ("stop", text[4:6])
    assert deltas[-1].usage is not None and deltas[-1].usage.completion_tokens == 6


async def test_shift_false_ends_at_exactly_the_context(bench: Bench) -> None:
    deltas = await bench.answer(bench.request([1, 2, 3], predict=100, ctx=12, shift=False))
    assert tokens_of(deltas) == pure([1, 2, 3], 9)
    assert deltas[-1].done_reason == "length"


async def test_a_full_window_keeps_the_start_and_the_newer_half(bench: Bench) -> None:
    deltas = await bench.answer(bench.request([1, 2, 3], predict=14, ctx=12, keep=2))
    tokens = [1, 2, 3, *pure([1, 2, 3], 9)]  # 12: full
    window = tokens[:2] + tokens[-5:]  # 12 - (12 - 2) / 2 = 7 stay
    want = tokens[3:] + pure(window, 5, seed=1000)
    assert tokens_of(deltas) == want
    assert deltas[-1].usage is not None and deltas[-1].usage.completion_tokens == 14


# Company


async def test_company_changes_nothing(bench: Bench) -> None:
    prompts = [list(range(1, n)) for n in (3, 50, 20, 9, 33)]
    tasks = []
    for i, prompt in enumerate(prompts):
        tasks.append(bench.send(bench.request(prompt, predict=5 + i, seed=i)))
        await bench.step()
    answers = await bench.finish(*tasks)
    assert [tokens_of(a) for a in answers] == [pure(p, 5 + i, seed=i) for i, p in enumerate(prompts)]


async def test_decoding_rows_of_all_stand_in_one_step_beside_a_chunk(bench: Bench) -> None:
    first = bench.send(bench.request([1, 2, 3], predict=20))
    second = bench.send(bench.request([4, 5], predict=20))
    await bench.step()
    await bench.step()
    third = bench.send(bench.request(list(range(11, 51)), predict=2))
    await bench.step()
    assert await bench.step() == [(5, 1), (4, 1)]
    assert await bench.step() == [(6, 1), (5, 1), (0, 16)]
    assert await bench.step() == [(7, 1), (6, 1), (16, 16)]
    await bench.finish(first, second, third)


async def test_who_leaves_frees_its_place_at_the_next_step() -> None:
    async for bench in running(Bench(most=1)):
        first = bench.send(bench.request([1, 2, 3], predict=100))
        second = bench.send(bench.request([7, 8], predict=2))
        for _ in range(4):
            await bench.step()
        assert (bench.lane.running, bench.lane.waiting) == (1, 1)
        first.cancel()
        await settle()
        queued = len(bench.runner.queue)
        assert queued == 2
        for _ in range(queued):
            await bench.step()
        assert tokens_of((await bench.finish(second))[0]) == pure([7, 8], 2)


async def test_a_request_that_leaves_the_queue_never_runs() -> None:
    async for bench in running(Bench(most=1)):
        first = bench.send(bench.request([1, 2, 3], predict=3))
        second = bench.send(bench.request([7, 8], predict=2))
        await settle()
        second.cancel()
        await bench.finish(first)
        assert all(len(step.items) == 1 for step in bench.runner.history)
        assert len(bench.runner.history) == 3


async def test_pages_of_one_who_left_are_there_for_the_next_step() -> None:
    """Although the steps in flight still write to them: what is planned now runs after those."""
    async for bench in running(Bench(pages=(4,))):
        gone = bench.send(bench.request([1] * 12, predict=100))
        await bench.step()
        other = bench.send(bench.request([2] * 12, predict=3))
        await settle()
        assert (bench.lane.running, bench.lane.waiting) == (1, 1)
        gone.cancel()
        await settle()
        assert bench.blocks.available == (4,)
        assert len(bench.runner.queue) == 2  # both of the one who left
        await bench.step()
        assert bench.lane.running == 1
        assert tokens_of((await bench.finish(other))[0]) == pure([2] * 12, 3)


# Memory


async def test_when_pages_run_out_the_youngest_is_computed_again() -> None:
    async for bench in running(Bench(pages=(12,))):
        tasks = [bench.send(bench.request([i, i, i], predict=30, seed=i)) for i in range(1, 5)]
        answers = await bench.finish(*tasks)
        assert [tokens_of(a) for a in answers] == [pure([i, i, i], 30, seed=i) for i in range(1, 5)]
        again = [item for step in bench.runner.history for item in step.items if item[1] == 0 and item[2] > 3]
        assert again  # somebody did give way


async def test_a_prompt_waits_until_its_pages_are_there() -> None:
    async for bench in running(Bench(pages=(12,))):
        first = bench.send(bench.request([1] * 30, predict=4))
        await bench.step()
        second = bench.send(bench.request([2] * 30, predict=4))
        while not first.done():
            assert bench.lane.waiting == 1
            await bench.step()
        assert tokens_of((await bench.finish(second))[0]) == pure([2] * 30, 4)


async def test_a_window_needs_no_more_pages_than_it_sees() -> None:
    async for bench in running(Bench(pages=(40, 7), program=FakeProgram(windows=(0, 8)))):
        assert tokens_of(await bench.answer(bench.request([3] * 60, predict=60))) == pure([3] * 60, 60)


@pytest.mark.parametrize("seed", range(12))
async def test_any_timing_gives_the_answers_of_solitude(seed: int) -> None:
    """Arrivals, departures, failures of memory and the pace of steps at random; every answer must be the
    pure one."""
    dice = random.Random(seed)
    pages = (dice.randrange(20, 60), dice.randrange(20, 40))
    program = FakeProgram(windows=(0, dice.choice([1, 3, 8])))
    async for bench in running(
        Bench(pages, program, rows=dice.choice([1, 5, 16, 50]), most=dice.choice([2, 8]))
    ):
        want: dict[asyncio.Task[list[Delta]], list[int]] = {}
        for number in range(25):
            prompt = [dice.randrange(1, 97) for _ in range(dice.randrange(1, 50))]
            predict = dice.randrange(1, 28)
            task = bench.send(bench.request(prompt, predict, seed=number))
            want[task] = pure(prompt, predict, number)
            for _ in range(dice.randrange(4)):
                await settle()
                if bench.runner.queue:
                    bench.runner.step()
            if dice.random() < 0.2:
                gone = dice.choice(list(want))
                gone.cancel()
        await asyncio.gather(*(bench.finish(task) for task in list(want)), return_exceptions=True)
        done = [task for task in want if not task.cancelled()]
        assert len(done) > 10
        for task in done:
            assert tokens_of(task.result()) == want[task]


# Failure


async def test_a_failed_step_fails_who_is_in_it_and_nobody_else(bench: Bench) -> None:
    doomed = bench.send(bench.request([1, 2, 3], predict=50))
    for _ in range(3):
        await bench.step()
    bench.runner.fail_step = lambda step: "no luck" if step.number == 3 else None
    other = bench.send(bench.request([7, 8, 9], predict=5))
    late = bench.send(bench.request([4], predict=5))
    answers = await asyncio.gather(bench.finish(other, late), bench.finish(doomed), return_exceptions=True)
    assert isinstance(answers[1], EngineError) and "no luck" in str(answers[1])
    assert not isinstance(answers[0], BaseException)
    assert [tokens_of(a) for a in answers[0]] == [pure([7, 8, 9], 5), pure([4], 5)]


async def test_a_failed_row_fails_its_request_only(bench: Bench) -> None:
    tasks = [bench.send(bench.request([i, 2, 3], predict=8)) for i in range(1, 4)]
    bench.runner.fail_item = lambda step, item: "not a number" if (step.number, item) == (4, 1) else None
    answers = await asyncio.gather(*(bench.finish(task) for task in tasks), return_exceptions=True)
    assert isinstance(answers[1], EngineError) and "not a number" in str(answers[1])
    for i in (0, 2):
        assert not isinstance(answers[i], BaseException)
        assert tokens_of(answers[i][0]) == pure([i + 1, 2, 3], 8)


async def test_a_refused_step_fails_who_is_in_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise ValueError("too much")

    with monkeypatch.context() as patch:
        patch.setattr(bench.runner, "submit", refuse)
        with pytest.raises(EngineError, match="too much"):
            await bench.answer(bench.request([1]))
    assert tokens_of(await bench.answer(bench.request([1], predict=2))) == pure([1], 2)


async def test_removing_a_model_waits_for_its_steps(bench: Bench) -> None:
    task = bench.send(bench.request([1, 2], predict=50))
    waiting = bench.send(bench.request([3, 4], predict=50))
    await bench.step()
    removal = asyncio.create_task(bench.loop.remove(bench.lane, EngineError("unloaded")))
    await settle()
    for client in (task, waiting):
        with pytest.raises(EngineError, match="unloaded"):
            await client
    assert not removal.done()
    while bench.runner.queue:
        await bench.step()
    await asyncio.wait_for(removal, 1)


@pytest.mark.parametrize("ratio", [1, 4])
async def test_two_models_share_the_device_by_time(bench: Bench, ratio: int) -> None:
    """One whose steps take four times as long gets a fourth of the steps."""
    bench.program.seconds = 0.01
    other = Bench(program=FakeProgram(seconds=0.01 * ratio), beside=bench)
    first = bench.send(bench.request([1], predict=200))
    for _ in range(10):
        await bench.step()  # what it got while it was alone is not held against it
    second = other.send(other.request([2], predict=200))
    for _ in range(120):
        await bench.step()
    programs = [step.program for step in bench.runner.history[14:114]]
    shares = [sum(p is b.program for p in programs) for b in (bench, other)]
    assert sum(shares) == 100 and abs(shares[0] - ratio * shares[1]) <= ratio
    first.cancel()
    second.cancel()
    await bench.idle()
    await other.idle()


async def test_nothing_runs_when_there_is_nothing_to_do(bench: Bench) -> None:
    await bench.answer(bench.request([1], predict=1))
    await settle()
    assert len(bench.runner.history) == 1 and not bench.runner.queue
