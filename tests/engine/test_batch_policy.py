"""Who runs in the next step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ollamapy.scheduler.batch import plan_batch


@dataclass(eq=False)
class Request:
    arrival: int
    remaining: int
    pages: int = 0
    planned: int = 0
    follows: bool = False


class Pool:
    """One page a row."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.preempted: list[Request] = []
        self.ran: list[Request] = []

    def ready(self, candidate: Request) -> bool:
        return not candidate.follows

    def admit(self, candidate: Request) -> bool:
        return candidate.remaining <= self.free

    def grow(self, candidate: Request, rows: int) -> bool:
        if rows > self.free:
            return False
        self.free -= rows
        candidate.pages += rows
        return True

    def runs(self, candidate: Request) -> None:
        self.ran.append(candidate)

    def preempt(self, candidate: Request) -> None:
        self.preempted.append(candidate)
        self.free += candidate.pages


class Rows:
    """A budget of prompt rows."""

    def __init__(self, rows: int) -> None:
        self.left = rows

    def rows(self, position: int, most: int) -> int:
        return min(self.left, most)

    def spend(self, position: int, rows: int) -> None:
        self.left -= rows


def by_arrival(request: Request) -> int:
    return request.arrival


def plan(
    running: list[Request],
    waiting: list[Request],
    pool: Pool | None = None,
    rows: int = 100,
    most: int = 8,
    turn: Callable[[Request], Any] = by_arrival,
):
    result = plan_batch(running, waiting, pool or Pool(10_000), Rows(rows), most, turn)
    return [(r.arrival, n) for r, n in result.items], [r.arrival for r in result.admitted]


def test_everyone_who_decodes_gets_a_row_and_prefill_the_rest() -> None:
    running = [Request(0, 500), Request(1, 1), Request(2, 1), Request(3, 70)]
    assert plan(running, []) == ([(1, 1), (2, 1), (0, 100)], [])
    running[0].remaining = 40
    assert plan(running, []) == ([(1, 1), (2, 1), (0, 40), (3, 60)], [])


def test_who_has_nothing_to_do_gets_nothing() -> None:
    assert plan([Request(0, 0), Request(1, 1)], []) == ([(1, 1)], [])


def test_waiting_ones_join_in_order_while_the_budget_lasts() -> None:
    waiting = [Request(5, 30), Request(6, 90), Request(7, 1)]
    assert plan([Request(0, 1)], waiting) == ([(0, 1), (5, 30), (6, 70)], [5, 6])


def test_no_more_run_than_allowed() -> None:
    waiting = [Request(i, 1) for i in range(5, 15)]
    assert plan([Request(i, 1) for i in range(5)], waiting)[1] == [5, 6, 7]


def test_the_first_that_does_not_fit_holds_the_line() -> None:
    pool = Pool(50)
    assert plan([], [Request(0, 20), Request(1, 60), Request(2, 5)], pool) == ([(0, 20)], [0])
    assert pool.free == 30


def test_the_youngest_gives_way_to_the_oldest() -> None:
    pool = Pool(0)
    old, middle, young = Request(0, 1), Request(1, 1), Request(2, 1, pages=3)
    items, admitted = plan([old, middle, young], [Request(9, 1)], pool)
    assert pool.preempted == [young]
    assert items == [(0, 1), (1, 1)]
    assert admitted == []  # the pages that are left are not for newcomers yet


def test_a_row_already_planned_for_a_victim_is_taken_back() -> None:
    pool = Pool(1)
    old, young = Request(0, 40, pages=5), Request(1, 1, pages=60)
    items, _ = plan([old, young], [], pool)
    assert items == [(0, 40)]
    assert pool.preempted == [young]


def test_the_youngest_waits_with_what_it_has() -> None:
    pool = Pool(1)
    assert plan([Request(0, 1), Request(1, 40)], [], pool) == ([(0, 1)], [])
    assert pool.preempted == []


def test_who_follows_another_waits_and_holds_up_nobody() -> None:
    waiting = [Request(0, 30), Request(1, 30, follows=True), Request(2, 30)]
    pool = Pool(1000)
    assert plan([], waiting, pool) == ([(0, 30), (2, 30)], [0, 2])
    assert pool.ran == [waiting[0], waiting[2]]
    assert plan([Request(0, 40, follows=True), Request(1, 40)], []) == ([(1, 40)], [])


def test_turns_decide_among_prompts_that_run_and_that_wait() -> None:
    turns = {0: 2, 1: 0, 5: 1, 6: 0}
    running, waiting = [Request(0, 500), Request(1, 20)], [Request(5, 30), Request(6, 25)]
    items, admitted = plan(running, waiting, turn=lambda r: (turns[r.arrival], r.arrival))
    assert items == [(1, 20), (6, 25), (5, 30), (0, 25)]
    assert sorted(admitted) == [5, 6]


def test_one_who_was_just_admitted_gives_way_again() -> None:
    pool = Pool(60)
    turns = {0: 1, 5: 0}
    items, admitted = plan(
        [Request(0, 50)], [Request(5, 50)], pool, turn=lambda r: (turns[r.arrival], r.arrival)
    )
    assert (items, admitted) == ([(0, 50)], [])
    assert [r.arrival for r in pool.preempted] == [5]
