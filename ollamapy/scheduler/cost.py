"""How long a step takes, learnt from the steps that ran; and what that leaves for prompts.

A step is taken to cost fixed + rows * per_row + seen * per_seen seconds, seen being the positions that its rows
attend to. Measurements are averaged in cells of similar size, and the coefficients fitted over the cells: what
prompts cost is not forgotten while nothing but tokens is decoded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.2  # weight of a new measurement in its cell
OUTLIER = (
    3.0  # a step that takes longer than this times its cell's average counts as this: others share the CPUs
)
STRETCH = 2.5  # how many times longer prompt rows may make a step than its decoding rows alone
LONGEST = 0.25  # seconds of a step when nobody waits for a token: new requests and cancellations do
LEAST_ROWS = 2  # prompt rows of a step, whatever they cost: behind 8,000 positions one takes as long as a decoding step
FIRST_ROWS = 32  # beside decoding rows, before anything is known


class StepCost:
    """The cost of a model's steps."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], tuple[float, float, float]] = {}  # mean rows, seen, seconds
        self._weights: NDArray[np.float64] | None = None  # fixed, per row, per position seen

    def observe(self, rows: int, seen: int, seconds: float) -> None:
        """A step of so many rows, which attended to so many positions, took so long."""
        cell = (rows.bit_length(), seen.bit_length())
        old = self._cells.get(cell)
        if old is None:
            self._cells[cell] = (rows, seen, seconds)
        else:
            seconds = min(seconds, OUTLIER * old[2])
            new = (rows, seen, seconds)
            self._cells[cell] = tuple(a + SMOOTHING * (b - a) for a, b in zip(old, new, strict=True))  # type: ignore[assignment]
        self._weights = None

    @property
    def known(self) -> bool:
        """Whether steps of different sizes have been seen: else there is no telling what a row costs."""
        return len({rows for rows, _ in self._cells}) > 1

    def seconds(self, rows: float, seen: float) -> float:
        fixed, per_row, per_seen = self.coefficients
        return fixed + rows * per_row + seen * per_seen

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """Seconds of a step, of a row, of a position seen. None is negative."""
        if self._weights is None:
            self._weights = self._fit()
        fixed, per_row, per_seen = self._weights
        return float(fixed), float(per_row), float(per_seen)

    def _fit(self) -> NDArray[np.float64]:
        """Least squares of the relative errors over the cells; what would be negative is left out."""
        if not self._cells:
            return np.zeros(3)
        cells = np.array(list(self._cells.values()))
        scale = 1.0 / np.maximum(cells[:, 2], 1e-7)
        design = np.column_stack([np.ones(len(cells)), cells[:, 0], cells[:, 1]]) * scale[:, None]
        norms = np.linalg.norm(design, axis=0)
        used = [0, 1, 2]
        while used:
            found = np.linalg.lstsq(design[:, used] / norms[used], np.ones(len(cells)), rcond=1e-6)[0]
            if found.min() >= 0:
                weights = np.zeros(3)
                weights[used] = found / norms[used]
                return weights
            used.pop(int(found.argmin()))
        return np.zeros(3)


class StepBudget:
    """What a step may still take: see Budget in ollamapy.scheduler.batch."""

    def __init__(self, cost: StepCost, decoding: int, seen: int, most: int) -> None:
        """decoding rows attend to seen positions in all; most prompt rows have room in a step."""
        self._cost = cost
        self._decoding = decoding
        self._seen = seen
        self._most = most
        self._asked = False  # most steps have no prompt rows: the cost is fitted for those that have
        self._least = 0
        self._left = self._per_row = self._per_seen = 0.0

    def _ask(self) -> None:
        self._asked = True
        if not self._cost.known:
            self._least = self._most if self._decoding == 0 else min(self._most, FIRST_ROWS)
            return
        alone = self._cost.seconds(self._decoding, self._seen)
        _, self._per_row, self._per_seen = self._cost.coefficients
        self._least = min(self._most, LEAST_ROWS)
        self._left = (STRETCH - 1) * alone if self._decoding else LONGEST - alone

    def rows(self, position: int, most: int) -> int:
        """Prompt rows that the step may still take of a prompt, from position on: at most so many."""
        if not self._asked:
            self._ask()
        most = min(most, self._most)
        # Half of the rows that there may be stand between position and the middle of the chunk.
        each = self._per_row + self._per_seen * (position + most / 2)
        affordable = int(self._left / each) if each > 0 and self._left > 0 else 0
        if each == 0 and self._left > 0:
            affordable = most
        return min(most, max(self._least, affordable))

    def spend(self, position: int, rows: int) -> None:
        """Prompt rows that rows() allowed are in the step."""
        self._most -= rows
        self._least = max(0, self._least - rows)
        self._left -= rows * (self._per_row + self._per_seen * (position + rows / 2))
