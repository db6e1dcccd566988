"""What a step may take, and whose turn it is."""

from __future__ import annotations

import random

import pytest

from ollamapy.scheduler.cost import LEAST_ROWS, LONGEST, STRETCH, StepBudget, StepCost, Work
from ollamapy.scheduler.fairness import FairShare

FIXED, ROW, SEEN, READ = 4e-3, 5e-4, 2e-8, 7e-7


def true(rows: int, seen: int, read: int) -> float:
    return FIXED + rows * ROW + seen * SEEN + read * READ


def learnt(noise: float = 0.0) -> StepCost:
    dice = random.Random(1)
    cost = StepCost()
    for _ in range(300):
        rows = dice.choice([1, 2, 8, 9, 30, 120, 256])
        position = dice.randrange(1, 8000)
        read = position * dice.choice([1, rows])  # one sequence, or as many as rows
        work = Work(rows, rows * position, read)
        cost.observe(work, true(*work) * (1 + noise * dice.random()))
    return cost


def test_the_cost_of_a_step_is_learnt() -> None:
    cost = learnt()
    works = [
        (1, 500, 500),
        (4, 20_000, 20_000),
        (2, 16_000, 8000),
        (64, 64 * 4000, 4000),
        (256, 256 * 7000, 7000),
    ]
    for work in works:
        assert cost.seconds(Work(*work)) == pytest.approx(true(*work), rel=0.15)


def test_decoding_does_not_make_it_forget_what_prompts_cost() -> None:
    cost = learnt()
    for i in range(5000):
        work = Work(4, 4 * (1000 + i), 4 * (1000 + i))
        cost.observe(work, true(*work))
    assert cost.seconds(Work(200, 200 * 3000, 3000)) == pytest.approx(true(200, 200 * 3000, 3000), rel=0.2)


def test_a_step_that_somebody_else_held_up_counts_little() -> None:
    cost = learnt()
    before = cost.seconds(Work(1, 500, 500))
    cost.observe(Work(1, 500, 500), 5.0)
    assert cost.seconds(Work(1, 500, 500)) < 2 * before


@pytest.mark.parametrize("position", [0, 7000])
def test_prompts_stretch_a_step_by_so_much_and_no_more(position: int) -> None:
    cost = learnt(0.2)
    decoding, seen = 8, 8 * 1000
    budget = StepBudget(cost, decoding, seen, 256)
    rows = budget.rows(position, 8000)
    assert rows > LEAST_ROWS
    alone = true(decoding, seen, seen)
    stretched = true(decoding + rows, seen + rows * position + rows * rows // 2, seen + position + rows)
    assert (1 + (STRETCH - 1) / 2) * alone < stretched < 1.25 * STRETCH * alone
    budget.spend(position, rows)
    assert budget.rows(position, 8000) <= 2  # nothing is left for another one


def test_without_listeners_a_step_may_be_long() -> None:
    budget = StepBudget(learnt(), 0, 0, 256)
    assert budget.rows(0, 8000) == 256
    slow = StepCost()
    slow.observe(Work(1, 1, 1), 0.1)
    slow.observe(Work(64, 2000, 64), 6.0)
    assert StepBudget(slow, 0, 0, 256).rows(0, 8000) == max(LEAST_ROWS, int((LONGEST - 0.1) / 0.09))


def test_a_prompt_always_gets_on() -> None:
    cost = StepCost()
    cost.observe(Work(1, 1, 1), 1e-3)
    cost.observe(Work(64, 2000, 64), 6.0)
    assert StepBudget(cost, 1, 10, 256).rows(0, 8000) == LEAST_ROWS


def test_who_is_behind_goes_first_by_quanta() -> None:
    fair = FairShare(quantum=100)
    for client in "ab":
        fair.join(client)
    fair.charge("a", 99)
    assert fair.turn("a") == fair.turn("b") == 0
    fair.charge("a", 150)
    assert (fair.turn("a"), fair.turn("b")) == (2, 0)
    fair.charge("b", 200)
    assert (fair.turn("a"), fair.turn("b")) == (0, 0)


def test_a_new_client_starts_level_and_being_away_saves_nothing_up() -> None:
    fair = FairShare(quantum=100)
    fair.join("a")
    fair.charge("a", 1000)
    fair.join("b")
    assert fair.turn("b") == fair.turn("a") == 0
    fair.charge("b", 500)
    fair.leave("b")
    fair.charge("a", 100)
    fair.join("b")
    assert (fair.turn("a"), fair.turn("b")) == (0, 4)  # what it had is not forgotten either


def test_clients_that_are_gone_are_forgotten() -> None:
    fair = FairShare()
    fair.join("stays")
    for i in range(5000):
        fair.join(str(i))
        fair.leave(str(i))
    assert len(fair._served) < 2000


def test_many_who_wait_for_a_first_token_count_more_than_one_who_waits_for_the_next() -> None:
    def rows(clients: int) -> int:
        return StepBudget(learnt(), 1, 100, 256, clients).rows(0, 8000)

    assert rows(1) < rows(2) < rows(7)
    assert rows(7) == pytest.approx(7 * rows(1), rel=0.2)
    assert StepBudget(learnt(), 8, 800, 256, 7).rows(0, 8000) == StepBudget(learnt(), 8, 800, 256).rows(
        0, 8000
    )
    stretched = true(1 + rows(1000), rows(1000) ** 2 // 2, rows(1000))
    assert stretched <= 1.1 * LONGEST
