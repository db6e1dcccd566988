"""Numbers that end. A grammar of JSON lets digits follow digits for ever, and small models take it at its word: behind
as many digits as no reader keeps, a number goes on only where it cannot end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_DIGITS = 20  # in a row; 64 bits have 20, the shortest text of a double has 17
_QUOTE, _BACKSLASH, _ZERO, _NINE = b'"\\09'


def digit_tokens(pieces: Sequence[bytes]) -> NDArray[np.uint32]:
    """The tokens that begin with a digit, as bits of a mask. pieces: the bytes of each token."""
    words = np.zeros((len(pieces) + 31) // 32, np.uint32)
    for token, piece in enumerate(pieces):
        if piece[:1].isdigit():
            words[token >> 5] |= np.uint32(1 << (token & 31))
    return words


class NumberLimit:
    """Where a JSON text that grows stands: in a string, or behind how many digits."""

    def __init__(self, digits: NDArray[np.uint32]) -> None:
        """digits: what digit_tokens() gives."""
        self._digits = digits
        self._in_string = False
        self._escaped = False
        self._run = 0

    def push(self, text: bytes) -> None:
        """Take what follows."""
        if self._in_string and not self._escaped and b'"' not in text and b"\\" not in text:
            return
        for byte in text:
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = byte == _BACKSLASH
                self._in_string = byte != _QUOTE
            elif _ZERO <= byte <= _NINE:
                self._run += 1
            else:
                self._in_string = byte == _QUOTE
                self._run = 0

    @property
    def reached(self) -> bool:
        return self._run >= MOST_DIGITS

    def apply(self, mask: NDArray[np.uint32]) -> None:
        """Take the digits out of a mask if there were enough of them and something else may follow."""
        if self.reached:
            others = mask & ~self._digits
            if others.any():
                mask[:] = others
