"""Which requests run in the next batch of a model.

Decoding rows come first: everyone who is being answered gets a token in every step. The rest of the step's time
is prefill, in chunks, so that a long prompt delays nobody by more than its share of a step; its order is the
caller's (see fairness). Who needs what another one is computing waits for it. Memory goes by order of arrival:
when pages run out, the youngest gives way and is computed again later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar


class Candidate(Protocol):
    @property
    def arrival(self) -> int:
        """Order of arrival; unique."""

    @property
    def remaining(self) -> int:
        """Rows it could run now: 0 nothing, 1 the next token, more a prompt."""

    @property
    def planned(self) -> int:
        """Position of the first of them."""


C = TypeVar("C", bound=Candidate)
CC = TypeVar("CC", bound=Candidate, contravariant=True)


class Memory(Protocol[CC]):
    """The KV pages as the policy sees them."""

    def ready(self, candidate: CC) -> bool:
        """Whether it computes its next rows itself. Not when another one is about to: then it waits. It may
        have less left to compute afterwards."""

    def admit(self, candidate: CC) -> bool:
        """Whether a waiting request's prompt fits beside what the running ones have been promised. It may
        have less left to compute afterwards."""

    def grow(self, candidate: CC, rows: int) -> bool:
        """Take the pages for its next rows; False when they are not there."""

    def runs(self, candidate: CC) -> None:
        """It computes its next rows in this step; others may wait for them."""

    def preempt(self, candidate: CC) -> None:
        """Take a request out of the step and its pages back."""


class Budget(Protocol):
    """What a step may still take."""

    def rows(self, position: int, most: int) -> int:
        """How many prompt rows from position on it has time for, most at most."""

    def spend(self, position: int, rows: int) -> None: ...


@dataclass(slots=True)
class Plan(Generic[C]):
    items: list[tuple[C, int]] = field(default_factory=list)  # rows to run of each, in this order
    admitted: list[C] = field(default_factory=list)  # leave the queue for the running batch


def plan_batch(
    running: Sequence[C],
    waiting: Sequence[C],
    memory: Memory[C],
    budget: Budget,
    max_sequences: int,
    turn: Callable[[C], Any],
) -> Plan[C]:
    """One step; running and waiting are in order of arrival.

    budget bounds the prompt rows of the step, max_sequences the requests that run at once; turn(candidate) sorts
    those that have prompt rows to run.
    """
    plan: Plan[C] = Plan()
    active = list(running)
    full = False  # nobody new in this step

    def run(candidate: C, rows: int) -> bool:
        nonlocal full
        while not memory.grow(candidate, rows):
            full = True
            victim = max(active, key=lambda c: c.arrival)
            if victim is candidate:
                return False  # the youngest waits with what it has; the oldest can always go on
            active.remove(victim)
            plan.items = [item for item in plan.items if item[0] is not victim]
            plan.admitted = [admitted for admitted in plan.admitted if admitted is not victim]
            memory.preempt(victim)
        plan.items.append((candidate, rows))
        return True

    prompts = [candidate for candidate in waiting if candidate.remaining > 0]
    for candidate in running:
        if candidate.remaining > 1:
            prompts.append(candidate)
        elif candidate.remaining == 1 and candidate in active:
            run(candidate, 1)
    queued = set(map(id, waiting))
    for candidate in sorted(prompts, key=turn):
        if budget.rows(candidate.planned, 1) < 1:
            break
        if id(candidate) in queued:
            if full or len(active) >= max_sequences or not memory.ready(candidate):
                continue
            if not memory.admit(candidate):
                full = True  # it holds the line, so that smaller ones do not pass it for ever
                continue
            active.append(candidate)
            plan.admitted.append(candidate)
        elif candidate not in active or not memory.ready(candidate):
            continue
        position = candidate.planned
        rows = budget.rows(position, candidate.remaining)
        if rows > 0 and run(candidate, rows):
            budget.spend(position, rows)
            memory.runs(candidate)
    return plan
