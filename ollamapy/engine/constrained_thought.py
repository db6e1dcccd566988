"""Thoughts before a constrained answer: what a model thinks is free, what it says after it is not.

The gate watches the bytes that the tokens add for the tags of a thought. Before one has begun, the model may
open it or begin with what the grammar wants; inside, everything but the end of the answer is allowed; after it,
the grammar decides. A token that ends the thought and goes on is allowed if the grammar takes what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


class ThoughtTokens:
    """What the tags of a thought are in a vocabulary."""

    def __init__(self, pieces: Sequence[bytes], start: str, end: str) -> None:
        """pieces: the bytes of each token, control tokens written out."""
        self.pieces = pieces
        self.start = start.strip().encode()
        self.end = end.strip().encode()
        # By how much of the start tag is there: the tokens that go on with it.
        self.opening: list[list[int]] = [[] for _ in self.start]
        # By how much of the end tag is there: the tokens that complete it and go on, with what they go on with.
        self.overrunning: list[list[tuple[int, bytes]]] = [[] for _ in self.end]
        for token, piece in enumerate(pieces):
            if not piece:
                continue
            for have in range(len(self.start)):
                rest = self.start[have:]
                if rest.startswith(piece) or piece.startswith(rest):
                    self.opening[have].append(token)
            for have in range(len(self.end)):
                head, found, after = piece.partition(self.end[have:])
                if found and after.strip() and (have == 0 or not head):
                    self.overrunning[have].append((token, after.strip()))


class ThoughtGate:
    """Where one answer stands."""

    def __init__(self, tokens: ThoughtTokens, inside: bool, accepts: Callable[[bytes], bool]) -> None:
        """inside: the prompt ends within a thought. accepts(text): whether the grammar may begin so."""
        self._tokens = tokens
        self._accepts = accepts
        self._accepted: dict[bytes, bool] = {}
        self._inside = inside
        self._begun = b""  # of the start tag
        self._tail = b""  # of the thought: as much as may be the beginning of the end tag
        self.passed = False

    @property
    def needs_grammar(self) -> bool:
        """Whether the grammar's own mask counts now."""
        return self.passed or not (self._inside or self._begun)

    def push(self, token: int) -> bytes | None:
        """Take a token. None: the thought goes on. Else the gate has passed, and these bytes belong to the
        grammar."""
        piece = self._tokens.pieces[token]
        if not self._inside:
            return self._push_start(token, piece)
        return self._push_inside(piece)

    def _push_inside(self, piece: bytes) -> bytes | None:
        end = self._tokens.end
        text = self._tail + piece
        _, found, after = text.partition(end)
        if found:
            self.passed = True
            return after.strip()
        self._tail = text[-(len(end) - 1) :] if len(end) > 1 else b""
        return None

    def _push_start(self, token: int, piece: bytes) -> bytes | None:
        if token not in self._tokens.opening[len(self._begun)]:
            self.passed = True
            return self._begun + piece
        self._begun += piece
        if len(self._begun) < len(self._tokens.start):
            return None
        rest, self._begun = self._begun[len(self._tokens.start) :], b""
        self._inside = True
        return self._push_inside(rest)

    def open(self, mask: NDArray[np.uint32], end_tokens: Sequence[int]) -> None:
        """Add to the grammar's mask, or replace it by, what the thought allows."""
        if not self._inside:
            if self._begun:
                mask[:] = 0
            for token in self._tokens.opening[len(self._begun)]:
                mask[token >> 5] |= np.uint32(1 << (token & 31))
            return
        mask[:] = 0xFFFFFFFF
        end = self._tokens.end
        forbidden = list(end_tokens)
        for have in range(min(len(self._tail), len(end) - 1) + 1):
            if self._tail.endswith(end[:have]):
                forbidden += [t for t, rest in self._tokens.overrunning[have] if not self._may_begin(rest)]
        for token in forbidden:
            mask[token >> 5] &= np.uint32(0xFFFFFFFF ^ (1 << (token & 31)))

    def _may_begin(self, text: bytes) -> bool:
        if text not in self._accepted:
            self._accepted[text] = self._accepts(text)
        return self._accepted[text]
