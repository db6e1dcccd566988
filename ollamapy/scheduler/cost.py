"""How long a step takes, learnt from the steps that ran; and what that leaves for prompts.

A step is taken to cost fixed + rows * per_row + seen * per_seen + read * per_read seconds, seen being the positions
that its rows attend to, read those whose keys and values come from memory: a chunk of a prompt reads them once for all
its rows, so that far behind in a text two rows cost little more than one. Measurements are averaged in cells of similar
size, and the coefficients fitted over the cells: what prompts cost is not forgotten while only tokens are decoded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.2  # weight of a new measurement in its cell
FIT_EVERY = 16  # measurements: a fit takes as long as the rest of planning, on a core that could compute
OUTLIER = (
    3.0  # a step that takes longer than this times its cell's average counts as this: others share the CPUs
)
STRETCH = 1.5  # how many times longer one prompt's rows may make a step than its decoding rows alone
LONGEST = 0.25  # seconds of a step when nobody waits for a token: new requests and cancellations do
LEAST_ROWS = 1  # prompt rows of a step, whatever they cost: prompts always get on
FIRST_ROWS = 32  # beside decoding rows, before anything is known


class Work(NamedTuple):
    """What a step, or a part of one, does."""

    rows: float
    seen: float  # positions that the rows attend to, summed over the rows
    read: float  # positions that any row of a sequence attends to, summed over the sequences


class StepCost:
    """The cost of a model's steps."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, ...], list[float]] = {}  # mean rows, seen, read, seconds
        self._weights: NDArray[np.float64] | None = None  # fixed, then by Work's fields
        self._unfitted = 0  # measurements since

    def observe(self, work: Work, seconds: float) -> None:
        """A step of so much work took so long."""
        rows, seen, read = work
        cell = (int(rows).bit_length(), int(seen).bit_length(), int(read).bit_length())
        mean = self._cells.get(cell)
        self._unfitted += 1
        if mean is None or self._unfitted >= FIT_EVERY:
            self._weights = None
        if mean is None:
            self._cells[cell] = [rows, seen, read, seconds]
        else:
            mean[0] += SMOOTHING * (rows - mean[0])
            mean[1] += SMOOTHING * (seen - mean[1])
            mean[2] += SMOOTHING * (read - mean[2])
            mean[3] += SMOOTHING * (min(seconds, OUTLIER * mean[3]) - mean[3])

    @property
    def known(self) -> bool:
        """Whether steps of different sizes have been seen: else there is no telling what a row costs."""
        return len({cell[0] for cell in self._cells}) > 1

    def seconds(self, work: Work) -> float:
        fixed = self._coefficients[0]
        return float(fixed + np.dot(self._coefficients[1:], work))

    @property
    def each(self) -> Work:
        """Seconds of a row, of a position seen, of a position read. None is negative."""
        return Work(*self._coefficients[1:].tolist())

    @property
    def _coefficients(self) -> NDArray[np.float64]:
        if self._weights is None:
            self._weights = self._fit()
            self._unfitted = 0
        return self._weights

    def _fit(self) -> NDArray[np.float64]:
        """Least squares of the relative errors over the cells; what would be negative is left out."""
        weights = np.zeros(4)
        if not self._cells:
            return weights
        cells = np.array(list(self._cells.values()))
        scale = 1.0 / np.maximum(cells[:, 3], 1e-7)
        design = np.column_stack([np.ones(len(cells)), cells[:, :3]]) * scale[:, None]
        norms = np.linalg.norm(design, axis=0)
        used = [0, 1, 2, 3]
        while used:
            found = np.linalg.lstsq(design[:, used] / norms[used], np.ones(len(cells)), rcond=1e-6)[0]
            if found.min() >= 0:
                weights[used] = found / norms[used]
                return weights
            used.pop(int(found.argmin()))
        return weights


class StepBudget:
    """What a step may still take: see Budget in ollamapy.scheduler.batch."""

    def __init__(self, cost: StepCost, decoding: int, seen: int, most: int, clients: int = 1) -> None:
        """decoding rows attend to seen positions in all; most prompt rows have room in a step. clients wait for
        a first token: where they are more than the decoding rows, these may wait longer for their next."""
        self._cost = cost
        self._decoding = Work(decoding, seen, seen)
        self._most = most
        self._clients = clients
        self._asked = False  # most steps have no prompt rows: the cost is fitted for those that have
        self._least = 0
        self._left = 0.0
        self._each = Work(0.0, 0.0, 0.0)

    def _ask(self) -> None:
        self._asked = True
        if not self._cost.known:
            self._least = self._most if self._decoding.rows == 0 else min(self._most, FIRST_ROWS)
            return
        alone = self._cost.seconds(self._decoding)
        self._each = self._cost.each
        self._least = min(self._most, LEAST_ROWS)
        self._left = max(
            LONGEST - alone, alone
        )  # where the weights alone take that long, rows have as much again
        if self._decoding.rows:
            self._left = min(
                self._left, (STRETCH - 1) * alone * max(1.0, self._clients / self._decoding.rows)
            )

    def rows(self, position: int, most: int) -> int:
        """Prompt rows that the step may still take of a prompt, from position on: at most so many."""
        if not self._asked:
            self._ask()
        most = min(most, self._most)
        # Half of the rows that there may be stand between position and the middle of the chunk.
        each = self._each.rows + self._each.seen * (position + most / 2) + self._each.read
        left = self._left - self._each.read * position
        affordable = 0 if left <= 0 else int(left / each) if each > 0 else most
        return min(most, max(self._least, affordable))

    def spend(self, position: int, rows: int) -> None:
        """Prompt rows that rows() allowed are in the step."""
        self._most -= rows
        self._least = max(0, self._least - rows)
        each = self._each
        self._left -= rows * (each.rows + each.seen * (position + rows / 2)) + each.read * (position + rows)
