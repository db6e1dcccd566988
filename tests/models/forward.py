"""A model on a device thread of its own, for tests that look at logits: no engine, no sampling."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ollamapy import _core
from ollamapy.engine.parts import Settings, prepare

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))  # kl.py, the reader of the reference distributions

F32 = NDArray[np.float32]


class Forward:
    """One sequence at a time; context bounds its tokens."""

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        isa: str = "",
        context: int = 2048,
        kv_type: str = "f16",
        adapter: Path | None = None,
    ) -> None:
        self.device = _core.Device(threads, isa)
        self.parts = prepare(str(path), self.device, Settings(kv_type=kv_type), str(adapter or ""))
        self.parts.read()
        self.program = self.parts.program
        self.pages = -(-context // _core.PAGE_TOKENS)
        if self.parts.architecture.bidirectional:
            self.pages = self.program.max_rows // _core.PAGE_TOKENS + self.program.max_outputs
        self.cache = _core.KVCache(self.program, [self.pages] * len(self.program.groups))
        self.runner = _core.Runner(self.device)

    def close(self) -> None:
        self.runner.close()

    def logits(self, tokens: list[int], first: int, rows: int = 256) -> F32:
        """Logits of positions first to the last, [len(tokens) - first, vocabulary], read rows at a time."""
        sequence = self.sequence(tokens)
        out: list[F32] = []
        start = 0
        while start < len(tokens):
            end = min(start + rows, first if start < first else start + self.program.max_outputs, len(tokens))
            item = (sequence, start, end - start, 0 if end <= first else end - start)
            out.extend(self.step([item]))
            start = end
        return np.concatenate(out)

    def pooled(self, texts: list[list[int]]) -> F32:
        """One row per text, one text a step."""
        rows = [self.step([(self.sequence(text), 0, len(text), 1)])[0] for text in texts]
        return np.concatenate(rows)

    def sequence(self, tokens: list[int]) -> _core.Sequence:
        sequence = _core.Sequence(tokens)
        for group in range(len(self.program.groups)):
            for index in range(-(-len(tokens) // _core.PAGE_TOKENS)):
                sequence.set_page(group, index, index)
        return sequence

    def step(self, items: list[tuple[_core.Sequence, int, int, int]]) -> list[F32]:
        self.runner.submit(self.program, self.cache, items, want_logits=True)
        [result] = self.runner.wait()
        if result.error is not None:
            raise RuntimeError(result.error)
        output = result.output  # a copy each time it is asked for
        return [] if output is None else [output]


def log_softmax(logits: F32) -> F32:
    """In place, along the last axis."""
    logits -= logits.max(axis=1, keepdims=True)
    sums = np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)
    logits -= np.log(sums).astype(np.float32)
    return logits
