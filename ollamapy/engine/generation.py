"""Requests that are being answered: their state, and the queue of one model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ollamapy.engine.blocks import BlockManager, BlockTable
from ollamapy.engine.constrained import TokenMasks, Words
from ollamapy.engine.ports import CoreResult, CoreSample, CoreSequence
from ollamapy.engine.stream import Emission, TextStream
from ollamapy.scheduler.batch import plan_batch
from ollamapy.types import Delta, DoneReason, EngineError, Usage


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a request, after its model and the pool have had their say."""

    num_ctx: int  # most tokens of the sequence, prompt included
    num_keep: int  # tokens at its start that survive when the window is full
    num_predict: int  # most tokens of the answer
    shift: bool


def shortened(tokens: Sequence[int], limits: Limits) -> list[int]:
    """Make room in a full window: the kept and the newest, num_ctx - (num_ctx - num_keep) / 2 in all."""
    keep = max(0, min(limits.num_keep, limits.num_ctx - 1))
    newest = limits.num_ctx - max(1, (limits.num_ctx - keep) // 2) - keep
    return [*tokens[:keep], *tokens[len(tokens) - newest :]]


class Generation:
    """One request, from its arrival to its last delta.

    Steps are planned before the results of the last one are known, so two times run side by side: what is
    planned (planned, length, to_sample) and what has come back (computed, tokens, sampled).
    """

    def __init__(
        self,
        arrival: int,
        prompt: list[int],
        limits: Limits,
        stream: TextStream,
        end_tokens: frozenset[int],
        new_sequence: Callable[[list[int], int], CoreSequence],
        blocks: BlockManager,
        masks: TokenMasks | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """new_sequence(tokens, branch) makes the core's sequence; a new branch draws other random numbers.
        masks: of an answer that a grammar constrains, the first one ready; wake() is called when a later one
        has come."""
        self.arrival = arrival
        self.limits = limits
        self.tokens = prompt
        self.in_flight = 0
        self.outcome: BaseException | None = None
        self.finished = False
        self.usage = Usage(prompt_tokens=len(prompt))
        self._stream = stream
        self._end_tokens = end_tokens
        self._new_sequence = new_sequence
        self._blocks = blocks
        self._masks = masks
        self._wake = wake
        self._late = False  # a mask came after its step: no more steps are planned before theirs is there
        self._deltas: deque[Delta] = deque()
        self._ready = asyncio.Event()
        self._born = time.monotonic()
        self._first_step: float | None = None
        self._first_token: float | None = None
        self._shifts = 0
        self.sampled = 0
        self.discard = False  # what is in flight is worth nothing: it built on a step that failed
        self._begin()

    def _begin(self) -> None:
        self.sequence = self._new_sequence(self.tokens, self._shifts)
        self.table: BlockTable = self._blocks.table(self.sequence)
        self.planned = 0
        self.computed = 0
        self.length = len(self.tokens)
        self.to_sample = self.sampled
        self.discard = False
        if self._masks is not None and self._masks.ready:
            self._deliver(self._masks.mask)

    # Planning

    @property
    def remaining(self) -> int:
        if self.finished or self.to_sample >= self.limits.num_predict or self.length >= self.limits.num_ctx:
            return 0
        if self._masks is not None and (self.discard or (self._late and not self._masks.ready)):
            return 0
        return self.length - self.planned

    def plan(self, rows: int) -> Item:
        """The next rows as an item of a step; the last one of what there is gets sampled."""
        item = Item(self, self.planned, rows, int(rows == self.remaining))
        self.planned += rows
        self.length += item.outputs
        self.to_sample += item.outputs
        self.in_flight += 1
        return item

    # Results

    def receive(self, item: Item, sample: CoreSample | None, result: CoreResult) -> None:
        """The outcome of a planned item. What comes after the end, one token at most, is dropped."""
        self.in_flight -= 1
        if self.discard or self.finished:
            return
        self.computed += item.rows
        if self._first_step is None:
            self._first_step = result.started
        if sample is None:
            self._blocks.drop(self.table, self.computed)
            return
        if self._first_token is None:
            self._first_token = result.ended
            self.usage.prompt_ns = _nanoseconds(self._first_step, result.ended)
        self.usage.completion_ns = _nanoseconds(self._first_token, result.ended)
        self.sampled += 1
        self.usage.completion_tokens = self.sampled
        if sample.token in self._end_tokens:
            self._end("stop")
            return
        self.tokens.append(sample.token)
        if self._masks is not None:
            self._masks.advance(sample.token, self._deliver, self._fail_and_wake)
            if self.finished:
                return
        self._blocks.drop(self.table, self.computed)
        emission = self._stream.push(sample.token, sample.logprob, sample.top)
        self._emit(emission)
        if emission.stop is not None:
            self._close("stop", emission.stop)
        elif self.sampled >= self.limits.num_predict or (self._at_end and not self.limits.shift):
            self._end("length")

    def postpone(self, item: Item) -> None:
        """A planned item whose mask did not come in time: its last row is computed once more, when all that
        was planned on it has come back."""
        self.in_flight -= 1
        if self.discard or self.finished:
            return
        self.computed += item.rows - 1
        self._late = True
        self.discard = True

    def rewind(self) -> None:
        """Plan on from what has come back, after a postponed item."""
        self.planned = self.computed
        self.length = len(self.tokens)
        self.to_sample = self.sampled
        self.discard = False

    def _deliver(self, mask: Words) -> None:
        self.sequence.set_mask(len(self.tokens), mask)
        if self._late:
            self._wake()

    def _fail_and_wake(self, error: Exception) -> None:
        self.fail(error)
        self._wake()

    @property
    def _at_end(self) -> bool:
        return len(self.tokens) >= self.limits.num_ctx

    @property
    def full(self) -> bool:
        """The window is full and everything that was in flight has come back."""
        return self._at_end and not self.finished and not self.in_flight

    def shift(self) -> None:
        """Go on with the kept tokens and the newer half as a new sequence: pages are never moved."""
        self._blocks.release(self.table)
        self.tokens = shortened(self.tokens, self.limits)
        self._shifts += 1
        self._begin()

    def restart(self) -> None:
        """Back to the queue with the tokens that are known; they are computed again, with the same bits."""
        self._blocks.release(self.table)
        self._begin()

    def release(self) -> None:
        self._blocks.release(self.table)

    # The way out

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self._finish()
            self.outcome = error
            self._ready.set()

    def abandon(self) -> None:
        """Nobody listens any more."""
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        if self._masks is not None:
            self.sequence.close_mask()

    def end_now(self, reason: DoneReason) -> None:
        """End a request that needs no step."""
        self._end(reason)

    async def next(self) -> Delta:
        """The next delta. Raises what the request failed with, after the deltas that came before."""
        while not self._deltas:
            if self.outcome is not None:
                raise self.outcome
            self._ready.clear()
            await self._ready.wait()
        return self._deltas.popleft()

    def _end(self, reason: DoneReason) -> None:
        emission = self._stream.finish()
        self._emit(emission)
        if emission.stop is not None:
            self._close("stop", emission.stop)
        else:
            self._close(reason, None)

    def _close(self, reason: DoneReason, stop: str | None) -> None:
        self._finish()
        self.usage.total_ns = _nanoseconds(self._born, time.monotonic())
        self._deltas.append(Delta(done_reason=reason, stop=stop, usage=self.usage))
        self._ready.set()

    def _emit(self, emission: Emission) -> None:
        if emission.text or emission.tokens:
            self._deltas.append(Delta(emission.text, emission.tokens, emission.logprobs))
            self._ready.set()


@dataclass(slots=True)
class Item:
    """Rows of one sequence in one step."""

    owner: Generation
    start: int
    rows: int
    outputs: int

    @property
    def core(self) -> tuple[CoreSequence, int, int, int]:
        return (self.owner.sequence, self.start, self.rows, self.outputs)


class GenerationLane:
    """The requests of one model: waiting, running, and leaving once their last step is over."""

    want_logits = False

    def __init__(
        self, program: Any, cache: Any, blocks: BlockManager, prefill_rows: int, max_sequences: int
    ) -> None:
        self.program = program
        self.cache = cache
        self.blocks = blocks
        self._prefill_rows = prefill_rows
        self._max_sequences = max_sequences
        self._running: list[Generation] = []  # both in order of arrival
        self._waiting: list[Generation] = []
        self._preempted: list[Generation] = []  # on their way back to the queue
        self.preemptions = 0
        self._leaving: list[Generation] = []  # finished, with a step in flight

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._preempted)

    def add(self, request: Generation) -> None:
        self._enqueue(request)

    def cancel(self, request: Generation) -> None:
        """Take a request out at once; its pages follow when no step reads them any more."""
        request.abandon()
        self._settle()

    def fail(self, error: BaseException) -> None:
        """Fail everything that is waiting or running."""
        for request in [*self._waiting, *self._running, *self._preempted]:
            request.fail(error)
        self._settle()

    # For the step loop

    def plan(self) -> list[Item]:
        """The items of the next step, none when there is nothing to do."""
        plan = plan_batch(self._running, self._waiting, self, self._prefill_rows, self._max_sequences)
        for request in plan.admitted:
            self._waiting.remove(request)
            self._running.append(request)
        self._running.sort(key=_arrival)
        return [request.plan(rows) for request, rows in plan.items]

    def finish(self, items: Sequence[Item], result: CoreResult) -> None:
        """Hand out the outcome of a step."""
        samples = {sample.item: sample for sample in result.samples}
        errors = dict(result.item_errors)
        late = set(result.late)
        for i, item in enumerate(items):
            if i in late:
                item.owner.postpone(item)
                continue
            if i in errors and not item.owner.discard:
                item.owner.fail(EngineError(errors[i]))
            item.owner.receive(item, samples.get(i), result)
        self._settle()

    def failed(self, items: Sequence[Item], error: str) -> None:
        """A step ended in an error. Who was in it fails, unless a step before it had failed already: then
        this one was doomed by its company, and the others are computed again."""
        doomed = any(item.owner.outcome is not None or item.owner.discard for item in items)
        for item in items:
            request = item.owner
            request.in_flight -= 1
            if request.finished:
                continue
            if doomed:
                request.discard = True
                self._preempt(request)
            else:
                request.fail(EngineError(error))
        self._settle()

    # What the policy asks

    @property
    def reclaiming(self) -> bool:
        return bool(self._preempted)

    def admit(self, candidate: Generation) -> bool:
        """Room for its prompt and one more page each for those who run already."""
        need = self._need(candidate)
        for group, free in enumerate(self.blocks.free):
            promised = need[group]
            for request in self._running:
                promised += max(1, self._need(request)[group] - request.table.held(group))
            if promised > free and (self._running or need[group] > free):
                return False
        return True

    def grow(self, candidate: Generation, rows: int) -> bool:
        return self.blocks.grow(candidate.table, candidate.planned + rows)

    def preempt(self, candidate: Generation) -> None:
        self._preempt(candidate)
        self._settle()

    def _need(self, request: Generation) -> tuple[int, ...]:
        return self.blocks.need(request.length, self._prefill_rows)

    def _preempt(self, request: Generation) -> None:
        if request in self._running:
            self._running.remove(request)
            self._preempted.append(request)
            self.preemptions += 1

    def _enqueue(self, request: Generation) -> None:
        self._waiting.append(request)
        self._waiting.sort(key=_arrival)

    def _settle(self) -> None:
        """Move everyone to where the last results put them."""
        self._waiting = [r for r in self._waiting if not r.finished]
        for group in (self._running, self._preempted):
            for request in [r for r in group if r.finished]:
                group.remove(request)
                self._leaving.append(request)
        for request in [r for r in self._leaving if not r.in_flight]:
            self._leaving.remove(request)
            request.release()
        for request in [r for r in self._preempted if not r.in_flight]:
            self._preempted.remove(request)
            if request.full:
                request.shift()
            else:
                request.restart()
            self._enqueue(request)
        for request in self._running:
            if request.full:
                request.shift()
            elif request.discard and not request.in_flight:
                request.rewind()


def _arrival(request: Generation) -> int:
    return request.arrival


def _nanoseconds(start: float, end: float) -> int:
    return max(0, round((end - start) * 1e9))
