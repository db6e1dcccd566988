"""One request that is being answered: its state from arrival to the last delta."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ollamapy.engine import metrics
from ollamapy.engine.blocks import BlockManager, BlockTable, Match
from ollamapy.engine.constrained import TokenMasks
from ollamapy.engine.ports import CoreResult, CoreSample, CoreSequence
from ollamapy.engine.stream import Emission, TextStream
from ollamapy.scheduler.cost import Work
from ollamapy.types import Delta, DoneReason, Usage

_MOST_BEHIND = 1024  # deltas that wait for a reader; then nothing is computed for it until half are gone


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
        client: str,
        prompt: list[int],
        limits: Limits,
        stream: TextStream,
        end_tokens: frozenset[int],
        new_sequence: Callable[[list[int], int], CoreSequence],
        blocks: BlockManager,
        masks: TokenMasks | None = None,
        wake: Callable[[], None] = lambda: None,
        usage: Usage | None = None,
    ) -> None:
        """client: who asks, for fairness. new_sequence(tokens, branch) makes the core's sequence; a new branch
        draws other random numbers. masks: of an answer that a grammar constrains, the first one ready;
        wake() is called when a later one has come. usage: the object to keep up to date."""
        self.arrival = arrival
        self.client = client
        self.limits = limits
        self.tokens = prompt
        self.outcome: BaseException | None = None
        self.finished = False
        self.usage = Usage() if usage is None else usage
        self.usage.prompt_tokens = len(prompt)
        self._stream = stream
        self._end_tokens = end_tokens
        self._new_sequence = new_sequence
        self._blocks = blocks
        self._masks = masks
        self._wake = wake
        self._late = False  # a mask came after its step: no more steps are planned before theirs is there
        self._deltas: deque[Delta] = deque()
        self._reader: asyncio.Future[None] | None = None  # who waits for a delta
        self._held = False  # nobody reads what is there
        self._born = time.monotonic()
        self._first_step: float | None = None
        self._first_token: float | None = None
        self._last_token = 0.0
        self._shifts = 0
        self.sampled = 0
        self.epoch = 0  # what was planned in an earlier one is worth nothing
        self._begin()

    def _begin(self) -> None:
        self.sequence = self._new_sequence(self.tokens, self._shifts)
        self.table: BlockTable = self._blocks.table(self.sequence, self.tokens)
        self.planned = 0
        self.computed = 0
        self.length = self._given = len(self.tokens)
        self.to_sample = self.sampled
        self.epoch += 1
        if self._masks is not None and self._masks.ready:
            self._deliver()

    # Planning

    @property
    def remaining(self) -> int:
        if self.finished or self.to_sample >= self.limits.num_predict or self.length >= self.limits.num_ctx:
            return 0
        if self._held:
            return 0
        if self._masks is not None and self._late and not self._masks.ready:
            return 0
        return self.length - self.planned

    @property
    def prefilling(self) -> bool:
        """Whether the row to be planned next is one of what the sequence began with."""
        return self.planned < self._given

    def attach(self, match: Match) -> None:
        """Go on behind what others have computed."""
        done = self._blocks.attach(self.table, match)
        if self._first_step is None:
            self.usage.cached_tokens += done - self.planned
        if self.computed == self.planned:
            self.computed = done
        self.planned = done

    def plan(self, rows: int) -> Item:
        """The next rows as an item of a step; the last one of what there is gets sampled."""
        item = Item(self, self.table, self.epoch, self.planned, rows, int(rows == self.length - self.planned))
        self._blocks.commit(self.table, self.planned)
        prefilling = self.prefilling
        self.planned += rows
        if prefilling:
            self._blocks.commit(self.table, self.planned, exchange=False)
            if item.outputs:
                self._blocks.offer(self.table, self.planned)
        self.length += item.outputs
        self.to_sample += item.outputs
        return item

    # Results

    def receive(self, item: Item, sample: CoreSample | None, result: CoreResult) -> None:
        """The outcome of a planned item. What comes after the end, one token at most, is dropped."""
        self._blocks.confirm(item.table, item.start + item.rows)
        if item.stale:
            return
        self.computed = item.start + item.rows
        started = self._begun(result.started)
        if sample is None:
            self._blocks.drop(self.table, self.computed)
            return
        if self._first_token is None:
            self._first_token = self.usage.first_token = result.ended
            self.usage.prompt_ns = _nanoseconds(started, result.ended)
            metrics.FIRST_TOKEN_SECONDS.observe(max(0.0, result.ended - self._born))
        else:
            metrics.TOKEN_SECONDS.observe(max(0.0, result.ended - self._last_token))
        self._last_token = result.ended
        self.sampled += 1
        if sample.token in self._end_tokens:
            self._end("stop")
            return
        self.tokens.append(sample.token)
        if self._masks is not None:
            seconds = self.sequence.mask_seconds
            self._masks.advance(sample.token, seconds, self._deliver, self._fail_and_wake)
            if self.finished:
                return
        self._blocks.drop(self.table, self.computed)
        emission = self._stream.push(sample.token, sample.logprob, sample.top)
        self._emit(emission)
        if emission.stop is not None:
            self._close("stop", emission.stop)
        elif self.sampled >= self.limits.num_predict or (self._at_end and not self.limits.shift):
            self._end("length")

    def _begun(self, started: float) -> float:
        """A step that began at started has run; returns when the first one began."""
        if self._first_step is None:
            self._first_step = started
            self.usage.queue_ns = _nanoseconds(self._born, started)
        return self._first_step

    def postpone(self, item: Item, result: CoreResult) -> None:
        """A planned item whose mask did not come in time: its last row is computed once more, when the mask is
        there. What was planned on it is dropped."""
        self._blocks.confirm(item.table, item.start + item.rows)
        if item.stale:
            return
        self._begun(result.started)
        self._late = True
        self.epoch += 1
        self.planned = self.computed = item.start + item.rows - 1
        self.length = len(self.tokens)
        self.to_sample = self.sampled

    def _deliver(self) -> None:
        if self._masks is not None:
            self._masks.put(self.sequence, len(self.tokens))
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
        """The window is full. Nothing is in flight then: no row is planned that would be the last one."""
        return self._at_end and not self.finished

    def shift(self) -> None:
        """Go on with the kept tokens and the newer half as a new sequence: pages are never moved."""
        self._blocks.release(self.table, self.computed)
        self.tokens = shortened(self.tokens, self.limits)
        self._shifts += 1
        self._begin()

    def restart(self) -> None:
        """Begin anew with the tokens that are known: the same bits come of them. What is in flight is lost."""
        self._blocks.release(self.table, self.computed)
        self._begin()

    def release(self) -> None:
        self._blocks.release(self.table, self.computed)

    # The way out

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self._finish("failed")
            self.outcome = error
            self._rouse()

    def grammar_error(self) -> Exception | None:
        """What went wrong in its grammar, if anything has."""
        if self._masks is None:
            return None
        self.sequence.close_mask()  # a step that draws may be using it
        return self._masks.error()

    def abandon(self) -> None:
        """Nobody listens any more."""
        self._finish("left")

    def _finish(self, outcome: str = "ended") -> None:
        if not self.finished:
            if self._first_step is None:
                self.usage.queue_ns = _nanoseconds(self._born, time.monotonic())
            metrics.REQUESTS.labels(outcome).inc()
            metrics.TOKENS.labels("prompt").inc(self.usage.prompt_tokens)
            metrics.TOKENS.labels("cached").inc(self.usage.cached_tokens)
            metrics.TOKENS.labels("completion").inc(self.sampled)
            self.usage.completion_tokens = self.sampled
            if self._first_token is not None:
                self.usage.completion_ns = _nanoseconds(self._first_token, self._last_token)
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
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        delta = self._deltas.popleft()
        if self._held and len(self._deltas) <= _MOST_BEHIND // 2:
            self._held = False
            self._wake()
        return delta

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
        self._rouse()

    def _emit(self, emission: Emission) -> None:
        if emission.text or emission.tokens:
            self._deltas.append(Delta(emission.text, emission.tokens, emission.logprobs))
            self._held = self._held or len(self._deltas) >= _MOST_BEHIND
            self._rouse()

    def _rouse(self) -> None:
        """Wake who waits for a delta: one reader at most."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


@dataclass(slots=True)
class Item:
    """Rows of one sequence in one step."""

    owner: Generation
    table: BlockTable  # the owner's when this was planned; it may have begun anew since
    epoch: int
    start: int
    rows: int
    outputs: int

    @property
    def core(self) -> tuple[CoreSequence, int, int, int]:
        return (self.table.sequence, self.start, self.rows, self.outputs)

    @property
    def stale(self) -> bool:
        """Its owner ended, or began anew: what comes of it is dropped."""
        return self.owner.finished or self.owner.epoch != self.epoch

    @property
    def postponed(self) -> bool:
        """It was planned on a token that has not been drawn."""
        return self.owner.epoch != self.epoch and self.owner.table is self.table


def work(items: Sequence[Item]) -> Work:
    """What a step of these items does."""
    rows = seen = read = 0
    for item in items:
        rows += item.rows
        seen += item.rows * item.start + item.rows * (item.rows + 1) // 2
        read += item.start + item.rows
    return Work(rows, seen, read)


def _nanoseconds(start: float, end: float) -> int:
    return max(0, round((end - start) * 1e9))
