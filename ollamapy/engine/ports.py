"""The part of the core that the step loop sees, as protocols.

The real ones are in ollamapy._core. The loop is written against these so that its timing can be replayed: the
tests drive it with a runner whose steps end when the test says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class CoreSequence(Protocol):
    def set_page(self, group: int, index: int, page: int) -> None: ...
    def set_mask(self, position: int, mask: NDArray[np.uint32]) -> None: ...
    def close_mask(self) -> None: ...


class CoreSample(Protocol):
    @property
    def item(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...


class CoreResult(Protocol):
    @property
    def step(self) -> int: ...
    @property
    def started(self) -> float: ...
    @property
    def ended(self) -> float: ...
    @property
    def samples(self) -> Sequence[CoreSample]: ...
    @property
    def output(self) -> NDArray[np.float32] | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def item_errors(self) -> Sequence[tuple[int, str]]: ...
    @property
    def late(self) -> Sequence[int]: ...


class CoreRunner(Protocol):
    def fileno(self) -> int: ...
    def submit(
        self,
        program: Any,
        cache: Any,
        items: list[tuple[Any, int, int, int]],
        want_logits: bool = False,
        copies: list[tuple[int, int, int]] = ...,
    ) -> int: ...
    def drain(self) -> Sequence[CoreResult]: ...


class TokenText(Protocol):
    """What the text stream asks of a tokenizer."""

    def piece(self, token: int, special: bool = False) -> bytes: ...


class StreamingDetokenizer(Protocol):
    def push(self, token: int) -> str: ...
    def flush(self) -> str: ...
    @property
    def pending(self) -> int: ...
