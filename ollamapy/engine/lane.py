"""The requests of one model that generate: waiting and running, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ollamapy.engine import metrics
from ollamapy.engine.blocks import BlockManager, Match
from ollamapy.engine.generation import Generation, Item, work
from ollamapy.engine.ports import CoreResult
from ollamapy.engine.prefix import Node
from ollamapy.scheduler.batch import plan_batch
from ollamapy.scheduler.cost import StepBudget, StepCost
from ollamapy.scheduler.fairness import FairShare
from ollamapy.types import EngineError

WORTH_WAITING = 16  # tokens that another one is about to compute, for which a request waits a step


class GenerationLane:
    """The queue of one model: see Lane in ollamapy.engine.loop."""

    want_logits = False

    def __init__(
        self,
        program: Any,
        cache: Any,
        blocks: BlockManager,
        prefill_rows: int,
        max_sequences: int,
        cost: StepCost | None = None,
    ) -> None:
        """prefill_rows: most prompt rows of a step; max_sequences: requests that run at once; cost: what is
        known of the model's steps."""
        self.program = program
        self.cache = cache
        self.blocks = blocks
        self.cost = cost or StepCost()
        self._prefill_rows = prefill_rows
        self._max_sequences = max_sequences
        self._running: list[Generation] = []  # both in order of arrival
        self._waiting: list[Generation] = []
        self._fair = FairShare()
        self._matches: dict[Generation, Match] = {}  # of waiting requests, while a step is planned
        self._filling: dict[Node, list[Generation]] = {}  # by shared beginning: who computes what comes next
        self._planned: set[Generation] = set()  # who has prompt rows in the step being planned

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def least(self, tokens: int) -> list[int]:
        """Pages per group with which a sequence of tokens, and every request that is here, comes to its end; no more
        than there are."""
        longest = max([tokens, *(r.limits.num_ctx for r in [*self._waiting, *self._running])])
        need = self.blocks.need(longest, self._prefill_rows)
        groups = zip(need, self.blocks.used, self.blocks.total, strict=True)
        return [min(max(pages, used), total) for pages, used, total in groups]

    def add(self, request: Generation) -> None:
        self._fair.join(request.client)
        self._enqueue(request)

    def cancel(self, request: Generation) -> None:
        """Take a request out at once. Its pages are free for the next step that is planned."""
        request.abandon()
        self._settle()

    def fail(self, error: BaseException) -> None:
        """Fail everything that is waiting or running."""
        for request in [*self._waiting, *self._running]:
            request.fail(error)
        self._settle()

    # For the step loop

    @property
    def copies(self) -> list[tuple[int, int, int]]:
        """(group, from, to): pages to be copied before the next step. Whoever runs it empties the list."""
        return self.blocks.copies

    def plan(self) -> list[Item]:
        """The items of the next step, none when there is nothing to do."""
        if not self._running and not self._waiting:
            return []
        self._matches.clear()
        self._planned.clear()
        self._filling.clear()
        if not self._waiting and (items := self._tokens_only()) is not None:
            return items
        room = self._max_sequences - len(self._running)
        coming = {request.client for request in self._waiting[:room]}  # who waits for a first token
        decoding = []
        for request in self._running:
            remaining = request.remaining
            if remaining > 0 and request.prefilling and not request.table.shared:
                self._fills(request)
            if remaining == 1:
                decoding.append(request)
            elif remaining > 1:
                coming.add(request.client)
        budget = StepBudget(
            self.cost,
            len(decoding),
            sum(r.planned + 1 for r in decoding),
            self._prefill_rows,
            len(coming),
        )
        plan = plan_batch(
            list(self._running), list(self._waiting), self, budget, self._max_sequences, self._turn
        )
        for request in plan.admitted:
            self._waiting.remove(request)
            self._running.append(request)
        self._running.sort(key=_arrival)
        for request, rows in plan.items:
            self._fair.charge(request.client, rows)
        return [request.plan(rows) for request, rows in plan.items]

    def _tokens_only(self) -> list[Item] | None:
        """What the policy comes to where there is nothing to choose, as in most steps: a token for each. None where
        somebody has more to run, or no room."""
        rows = []
        for request in self._running:
            remaining = request.remaining
            if remaining > 1 or (remaining and not self.grow(request, 1)):
                return None
            if remaining:
                rows.append(request)
        for request in rows:
            self._fair.charge(request.client, 1)
        return [request.plan(1) for request in rows]

    def finish(self, items: Sequence[Item], result: CoreResult) -> None:
        """Hand out the outcome of a step."""
        self.cost.observe(work(items), result.ended - result.started)
        samples = {sample.item: sample for sample in result.samples}
        errors = dict(result.item_errors)
        late = set(result.late)
        for i, item in enumerate(items):
            if i in late:
                item.owner.postpone(item, result)
                continue
            if i in errors:
                self._spoil(item, errors[i])
            item.owner.receive(item, samples.get(i), result)
        self._settle()

    def failed(self, items: Sequence[Item], error: str) -> None:
        """A step ended in an error: who is in it fails. Unless one of them had failed in the step before: then this
        one was doomed by its company, and the others begin anew."""
        doomed = any(item.owner.outcome is not None for item in items)
        for item in items:
            self._spoil(item, None if doomed else error)
        self._settle()

    def _spoil(self, item: Item, error: str | None) -> None:
        """What the item should have computed is not there. Who shares it, in this step or in one behind it,
        begins anew."""
        if not item.stale:
            if error is not None and item.table.intact:
                item.owner.fail(item.owner.grammar_error() or EngineError(error))
            else:
                self._again(item.owner)
        if not item.postponed:
            self.blocks.spoil(item.table, item.start)
        for request in [r for r in self._running if not r.finished and not r.table.intact]:
            self._again(request)

    # What the policy asks

    def ready(self, candidate: Generation) -> bool:
        if not candidate.prefilling or not candidate.table.shared:
            return True
        match = self.blocks.match(candidate.table)
        if candidate in self._running:
            if match.tokens > candidate.planned:
                candidate.attach(match)
        else:
            self._matches[candidate] = match
        return not self._follows(candidate, match)

    def admit(self, candidate: Generation) -> bool:
        """Room for its prompt and one more page each for those who run already."""
        match = self._matches.pop(candidate)
        need = self._need(candidate)
        for group, available in enumerate(self.blocks.available):
            first = self.blocks.first_seen(match.tokens, group)
            own = need[group] - sum(node.references[group] > 0 for node in match.nodes[first:])
            promised = own
            for request in self._running:
                promised += max(1, self._need(request)[group] - request.table.held(group))
            if promised > available and (self._running or own > available):
                return False
        candidate.attach(match)
        return True

    def grow(self, candidate: Generation, rows: int) -> bool:
        return self.blocks.grow(candidate.table, candidate.planned + rows)

    def runs(self, candidate: Generation) -> None:
        self._planned.add(candidate)
        self._fills(candidate)

    def preempt(self, candidate: Generation) -> None:
        self._planned.discard(candidate)
        metrics.PREEMPTIONS.inc(candidate in self._running)
        self._again(candidate)

    def _turn(self, request: Generation) -> tuple[int, int]:
        return self._fair.turn(request.client), request.arrival

    def _need(self, request: Generation) -> tuple[int, ...]:
        return self.blocks.need(request.length, self._prefill_rows)

    def _fills(self, request: Generation) -> None:
        node = request.table.nodes[-1] if request.table.nodes else self.blocks.tree.root
        self._filling.setdefault(node, []).append(request)

    def _follows(self, candidate: Generation, match: Match) -> bool:
        """Whether others are computing so much of what the candidate needs next that it waits for them.

        It waits only for who runs in this step, or came before it: so no two wait for each other.
        """
        nodes = match.nodes or candidate.table.nodes
        node = nodes[-1] if nodes else self.blocks.tree.root
        longest = len(candidate.tokens) - 1
        shared, end = node.depth * self.blocks.page_tokens, match.tokens + WORTH_WAITING
        end = min(end, match.tokens + (longest - match.tokens + 1) // 2)
        if end == match.tokens:
            return False
        wanted = candidate.tokens[shared:end]
        return any(
            other.tokens[shared:end] == wanted
            for other in self._filling.get(node, ())
            if other is not candidate and (other in self._planned or other.arrival < candidate.arrival)
        )

    # Coming and going

    def _enqueue(self, request: Generation) -> None:
        self._waiting.append(request)
        self._waiting.sort(key=_arrival)

    def _again(self, request: Generation) -> None:
        """Out of the batch and back to the queue."""
        request.restart()
        if request in self._running:
            self._running.remove(request)
            self._enqueue(request)

    def _settle(self) -> None:
        """Let those who ended go; make room in full windows."""
        for group in (self._running, self._waiting):
            for request in [r for r in group if r.finished]:
                group.remove(request)
                request.release()
                self._fair.leave(request.client)
        for request in self._running:
            if request.full:
                request.shift()


def _arrival(request: Generation) -> int:
    return request.arrival
