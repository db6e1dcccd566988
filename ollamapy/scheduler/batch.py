"""Which requests run in the next batch of a model.

Decoding rows come first: everyone who is being answered gets a token in every step. The rest of the step is
prefill, first come first served, in chunks, so that a long prompt delays nobody by more than its share of a
step. Memory goes by order of arrival: when pages run out, the youngest gives way and is computed again
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Candidate(Protocol):
    @property
    def arrival(self) -> int:
        """Order of arrival; unique."""

    @property
    def remaining(self) -> int:
        """Rows it could run now: 0 nothing, 1 the next token, more a prompt."""


C = TypeVar("C", bound=Candidate)
CC = TypeVar("CC", bound=Candidate, contravariant=True)


class Memory(Protocol[CC]):
    """The KV pages as the policy sees them."""

    @property
    def reclaiming(self) -> bool:
        """Pages of a preempted request are still read by a step in flight and come back after it."""

    def admit(self, candidate: CC) -> bool:
        """Whether a waiting request's prompt fits beside what the running ones have been promised."""

    def grow(self, candidate: CC, rows: int) -> bool:
        """Take the pages for its next rows; False when they are not there."""

    def preempt(self, candidate: CC) -> None:
        """Take a running request out and its pages back, now or when reclaiming ends."""


@dataclass(slots=True)
class Plan(Generic[C]):
    items: list[tuple[C, int]] = field(default_factory=list)  # rows to run of each, in this order
    admitted: list[C] = field(default_factory=list)  # leave the queue for the running batch


def plan_batch(
    running: Sequence[C], waiting: Sequence[C], memory: Memory[C], prefill_rows: int, max_sequences: int
) -> Plan[C]:
    """One step; running and waiting are in order of arrival.

    prefill_rows bounds the prompt rows of the step, max_sequences the requests that run at once.
    """
    plan: Plan[C] = Plan()
    active = list(running)

    def run(candidate: C, rows: int) -> bool:
        while not memory.grow(candidate, rows):
            victim = active[-1]
            if victim is candidate or memory.reclaiming:
                return False  # the youngest waits with what it has; the oldest can always go on
            active.pop()
            plan.items = [item for item in plan.items if item[0] is not victim]
            memory.preempt(victim)
        plan.items.append((candidate, rows))
        return True

    budget = prefill_rows
    for prefill in (False, True):
        for candidate in running:
            rows = min(candidate.remaining, budget) if prefill else candidate.remaining
            if (candidate.remaining > 1) is prefill and rows > 0 and candidate in active:
                ran = run(candidate, rows)
                budget -= rows if ran and prefill else 0
    if len(active) < len(running) or memory.reclaiming:
        return plan  # someone just gave way: nobody new now
    for candidate in waiting:
        rows = min(candidate.remaining, budget)
        if rows <= 0 or len(active) >= max_sequences:
            break
        if not memory.admit(candidate) or not memory.grow(candidate, rows):
            break
        active.append(candidate)
        plan.admitted.append(candidate)
        plan.items.append((candidate, rows))
        budget -= rows
    return plan
