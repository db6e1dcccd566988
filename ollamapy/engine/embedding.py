"""Texts that become vectors: the queue of one model's embedding program.

A bidirectional model sees a text whole, so a text is one item of one step, and the program pools it. A
causal model reads it in chunks like any prompt; its program returns the hidden states and they are pooled
here, in the order of the positions, so that the vector does not depend on the chunks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.ports import CoreResult, CoreSequence
from ollamapy.scheduler.fairness import FairShare
from ollamapy.types import EngineError

Pooling = Literal["mean", "last"]


class Text:
    """One input and the vector it will become: await vector."""

    def __init__(
        self, arrival: int, client: str, tokens: list[int], sequence: CoreSequence, blocks: BlockManager
    ) -> None:
        self.arrival = arrival
        self.client = client
        self.tokens = tokens
        self.sequence = sequence
        self.table = blocks.table(sequence)
        self.planned = 0
        self.in_flight = 0
        self.sum: NDArray[np.float64] | None = None
        self.vector: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()

    @property
    def remaining(self) -> int:
        return 0 if self.vector.done() else len(self.tokens) - self.planned


@dataclass(slots=True)
class TextItem:
    owner: Text
    start: int
    rows: int
    outputs: int

    @property
    def core(self) -> tuple[CoreSequence, int, int, int]:
        return (self.owner.sequence, self.start, self.rows, self.outputs)


class EmbeddingLane:
    """Clients take turns by the rows that were computed for them, as in generation; the texts of one are taken in order
    of arrival. Texts share a step as long as rows, outputs and pages last."""

    def __init__(
        self,
        program: Any,
        cache: Any,
        blocks: BlockManager,
        step_rows: int,
        max_outputs: int,
        new_sequence: Callable[[list[int]], CoreSequence],
        pooling: Pooling | None = None,
    ) -> None:
        """pooling None: the program is bidirectional and pools. step_rows bounds the rows of a step; the
        program has
        room for that many."""
        self.program = program
        self.cache = cache
        self.want_logits = pooling is not None
        self.blocks = blocks
        self.copies: list[tuple[int, int, int]] = []  # none: nothing is shared
        self._step_rows = step_rows
        self._max_outputs = max_outputs
        self._new_sequence = new_sequence
        self._pooling = pooling
        self._texts: set[Text] = set()  # that are not done, or in a step yet
        self._queues: dict[
            str, deque[Text]
        ] = {}  # by client: those with rows to plan, and some that are done
        self._fair = FairShare()
        self._arrivals = itertools.count()

    def add(self, tokens: list[int], client: str = "") -> Text:
        text = Text(next(self._arrivals), client, tokens, self._new_sequence(tokens), self.blocks)
        self._texts.add(text)
        self._queues.setdefault(client, deque()).append(text)
        self._fair.join(client)
        return text

    @property
    def waiting(self) -> int:
        """Texts of which nothing has been planned."""
        return sum(text.planned == 0 for text in self._texts)

    @property
    def running(self) -> int:
        """Texts that are being computed."""
        return len(self._texts) - self.waiting

    def cancel(self, texts: Sequence[Text]) -> None:
        for text in texts:
            text.vector.cancel()
        self._settle(texts)

    def fail(self, error: BaseException) -> None:
        for text in self._texts:
            if not text.vector.done():
                text.vector.set_exception(error)
        self._settle(list(self._texts))

    def plan(self) -> list[TextItem]:
        items: list[TextItem] = []
        rows_left, outputs_left = self._step_rows, self._max_outputs
        full = False  # no text is begun any more in this step
        heads = [head for client in list(self._queues) if (head := self._head(client)) is not None]
        queue = [(self._turn(text), text) for text in heads]  # arrivals are unique
        heapq.heapify(queue)
        while queue and rows_left > 0:
            turn, text = heapq.heappop(queue)
            if (now := self._turn(text)) > turn:  # others have become less in the meantime
                heapq.heappush(queue, (now, text))
                continue
            rows = text.remaining
            if self._pooling is not None:
                rows = min(rows, rows_left)
            last = rows == text.remaining
            outputs = rows if self._pooling == "mean" else int(last)
            if full and text.planned == 0:
                continue
            if (
                rows > rows_left
                or outputs > outputs_left
                or not self.blocks.grow(text.table, len(text.tokens))
            ):
                full = True  # it holds the line, so that smaller ones do not pass it; who has pages goes on
                continue
            items.append(TextItem(text, text.planned, rows, outputs))
            text.planned += rows
            text.in_flight += 1
            rows_left -= rows
            outputs_left -= outputs
            self._fair.charge(text.client, rows)
            if last and (head := self._head(text.client)) is not None:
                heapq.heappush(queue, (self._turn(head), head))
        return items

    def _head(self, client: str) -> Text | None:
        """The text of a client whose rows are planned next."""
        queue = self._queues[client]
        while queue and queue[0].remaining == 0:
            queue.popleft()
        if not queue:
            del self._queues[client]
            return None
        return queue[0]

    def _turn(self, text: Text) -> tuple[int, int]:
        return self._fair.turn(text.client), text.arrival

    def finish(self, items: Sequence[TextItem], result: CoreResult) -> None:
        output = result.output
        expected = sum(item.outputs for item in items)
        if expected and (output is None or output.shape[0] != expected):
            self.failed(items, "a step returned no vectors")
            return
        row = 0
        errors = dict(result.item_errors)
        for i, item in enumerate(items):
            text = item.owner
            text.in_flight -= 1
            if i in errors and not text.vector.done():
                text.vector.set_exception(EngineError(errors[i]))
            if output is not None and not text.vector.done():
                self._take(text, output[row : row + item.outputs], item.start + item.rows)
            row += item.outputs
        self._settle([item.owner for item in items])

    def failed(self, items: Sequence[TextItem], error: str) -> None:
        for item in items:
            item.owner.in_flight -= 1
            if not item.owner.vector.done():
                item.owner.vector.set_exception(EngineError(error))
        self._settle([item.owner for item in items])

    def _take(self, text: Text, rows: NDArray[np.float32], done: int) -> None:
        if self._pooling is None:
            text.vector.set_result(rows[0].copy())
            return
        for row in rows:  # one after the other: the sum must not depend on the chunks
            text.sum = row.astype(np.float64) if text.sum is None else text.sum + row
        if done == len(text.tokens) and text.sum is not None:
            # The mean's divisor is a length too, so normalizing does for both.
            length = float(np.sqrt(np.dot(text.sum, text.sum)))
            text.vector.set_result((text.sum / length if length > 0 else text.sum).astype(np.float32))

    def _settle(self, texts: Sequence[Text]) -> None:
        """Let those of texts go that are done and in no step."""
        for text in texts:
            if text.vector.done() and not text.in_flight and text in self._texts:
                self._texts.remove(text)
                self.blocks.release(text.table)
                self._fair.leave(text.client)
