"""Texts that become vectors: the queue of one model's embedding program.

A bidirectional model sees a text whole, so a text is one item of one step, and the program pools it. A
causal model reads it in chunks like any prompt; its program returns the hidden states and they are pooled
here, in the order of the positions, so that the vector does not depend on the chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.ports import CoreResult, CoreSequence
from ollamapy.types import EngineError

Pooling = Literal["mean", "last"]


class Text:
    """One input and the vector it will become: await vector."""

    def __init__(self, tokens: list[int], sequence: CoreSequence, blocks: BlockManager) -> None:
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
    """First come, first served; texts share a step as long as rows, outputs and pages last."""

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
        self._texts: list[Text] = []  # in order of arrival

    def add(self, tokens: list[int]) -> Text:
        text = Text(tokens, self._new_sequence(tokens), self.blocks)
        self._texts.append(text)
        return text

    def cancel(self, texts: Sequence[Text]) -> None:
        for text in texts:
            text.vector.cancel()
        self._settle()

    def fail(self, error: BaseException) -> None:
        for text in self._texts:
            if not text.vector.done():
                text.vector.set_exception(error)
        self._settle()

    def plan(self) -> list[TextItem]:
        items: list[TextItem] = []
        rows_left, outputs_left = self._step_rows, self._max_outputs
        for text in self._texts:
            rows = text.remaining
            if rows == 0:
                continue
            if self._pooling is not None:
                rows = min(rows, rows_left)
            last = rows == text.remaining
            outputs = rows if self._pooling == "mean" else int(last)
            fits = 0 < rows <= rows_left and outputs <= outputs_left
            if not fits or not self.blocks.grow(text.table, len(text.tokens)):
                break
            items.append(TextItem(text, text.planned, rows, outputs))
            text.planned += rows
            text.in_flight += 1
            rows_left -= rows
            outputs_left -= outputs
        return items

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
        self._settle()

    def failed(self, items: Sequence[TextItem], error: str) -> None:
        for item in items:
            item.owner.in_flight -= 1
            if not item.owner.vector.done():
                item.owner.vector.set_exception(EngineError(error))
        self._settle()

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

    def _settle(self) -> None:
        for text in [t for t in self._texts if t.vector.done() and not t.in_flight]:
            self._texts.remove(text)
            self.blocks.release(text.table)
