"""A stand-in for the core whose steps end when a test says so.

Its model is a hash: the token after a position depends on every token that the position may see, and those
are read back from the pages, as attention would. A page that was freed too early, handed out twice or moved
therefore changes the answer, or is found out at once because the page no longer holds what the sequence
says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4  # tokens in a page
END = 0  # the end token
LOST = -7  # in a place that a failed step should have filled
Rule = Callable[[list[int], int, int], int]  # (tokens so far, seed, position) -> next token


def hashed(tokens: list[int], seed: int, position: int) -> int:
    """A token from 1 to 96 that depends on everything."""
    data = repr((tokens, seed, position)).encode()
    return 1 + hashlib.sha256(data).digest()[0] % 96


class FakeSequence:
    def __init__(self, tokens: Sequence[int], seed: int = 0) -> None:
        self.tokens = list(tokens)
        self.seed = seed
        self.pages: dict[tuple[int, int], int] = {}

    def set_page(self, group: int, index: int, page: int) -> None:
        if page < 0:
            del self.pages[group, index]
        else:
            assert (group, index) not in self.pages, "a page table entry was overwritten"
            self.pages[group, index] = page


@dataclass
class FakeProgram:
    """windows: one per layer group, 0 is global. width: of the vectors of an embedding program."""

    windows: tuple[int, ...] = (0,)
    rule: Rule = hashed
    seconds: float = 0.0  # that a step takes
    max_rows: int = 10_000
    max_outputs: int = 10_000
    bidirectional: bool = False
    width: int = 8


@dataclass
class FakeCache:
    pages: tuple[int, ...]
    slots: dict[tuple[int, int, int], int] = field(default_factory=dict)  # (group, page, slot) -> token


@dataclass
class FakeSample:
    item: int
    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass
class FakeResult:
    step: int
    started: float
    ended: float
    samples: list[FakeSample] = field(default_factory=list)
    output: NDArray[np.float32] | None = None
    error: str | None = None
    item_errors: list[tuple[int, str]] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


@dataclass
class FakeStep:
    number: int
    program: FakeProgram
    cache: FakeCache
    items: list[tuple[FakeSequence, int, int, int]]
    want_logits: bool
    tables: list[dict[tuple[int, int], int]]  # as they were when the step was submitted
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    written: set[tuple[int, int, int]] = field(default_factory=set)


class FakeRunner:
    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.queue: deque[FakeStep] = deque()
        self.done: list[FakeResult] = []
        self.history: list[FakeStep] = []
        self.fail_step: Callable[[FakeStep], str | None] = lambda step: None
        self.fail_item: Callable[[FakeStep, int], str | None] = lambda step, item: None

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def submit(
        self,
        program: Any,
        cache: Any,
        items: list[tuple[Any, int, int, int]],
        want_logits: bool = False,
        copies: Sequence[tuple[int, int, int]] = (),
    ) -> int:
        rows = sum(item[2] for item in items)
        outputs = sum(item[3] for item in items)
        assert 0 < rows <= program.max_rows and outputs <= program.max_outputs
        assert len({id(item[0]) for item in items}) == len(items), "a sequence stands twice in a step"
        for sequence, start, count, _ in items:
            for group, window in enumerate(program.windows):
                for position in range(first_seen(start, window), start + count):
                    page = sequence.pages.get((group, position // PAGE), -1)
                    if not 0 <= page < cache.pages[group]:
                        raise ValueError(f"no page for position {position} of group {group}")
        tables = [dict(item[0].pages) for item in items]
        step = FakeStep(len(self.history), program, cache, list(items), want_logits, tables, list(copies))
        self.history.append(step)
        self.queue.append(step)
        return step.number

    def drain(self) -> list[FakeResult]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        done, self.done = self.done, []
        return done

    def step(self) -> FakeStep:
        """Run the oldest queued step."""
        step = self.queue.popleft()
        started = time.monotonic()
        result = FakeResult(step.number, started, started)
        result.error = self.fail_step(step)
        if result.error is None:
            self._run(step, result)
        else:
            self._lose(step)
        result.ended = started + step.program.seconds if step.program.seconds else time.monotonic()
        self.done.append(result)
        os.write(self._write, b"x")
        return step

    def _run(self, step: FakeStep, result: FakeResult) -> None:
        for group, source, target in step.copies:
            for offset in range(PAGE):
                content = step.cache.slots.pop((group, source, offset), None)
                step.cache.slots.pop((group, target, offset), None)
                if content is not None:
                    step.cache.slots[group, source, offset] = content
                    step.cache.slots[group, target, offset] = content
        # As in the core, all rows are written before any is read, and nothing is written to a page twice.
        failed = [self._write_pages(step, i) for i in range(len(step.items))]
        vectors: list[NDArray[np.float32]] = []
        for i in range(len(step.items)):
            error = failed[i] or self.fail_item(step, i)
            if error is not None:
                result.item_errors.append((i, error))
                step.items[i][0].tokens.append(-1)  # a failed draw keeps its place
                continue
            sequence, start, count, outputs = step.items[i]
            for position in range(start + count - outputs, start + count):
                groups = range(len(step.program.windows))
                seen = [self._read_back(step, i, group, position) for group in groups]
                if step.want_logits or step.program.bidirectional:
                    vectors.append(vector(seen[0], step.program.width))
                    continue
                token = step.program.rule(seen[0], sequence.seed, position + 1)
                sequence.tokens.append(token)
                best = [(token, -position / 64), (1, -9.0)]
                result.samples.append(FakeSample(i, token, -position / 64, best))
        if vectors:
            result.output = np.stack(vectors)

    def _lose(self, step: FakeStep) -> None:
        for item, (_, start, count, _) in enumerate(step.items):
            for group in range(len(step.program.windows)):
                for position in range(start, start + count):
                    page = step.tables[item][group, position // PAGE]
                    step.cache.slots[group, page, position % PAGE] = LOST

    def _write_pages(self, step: FakeStep, item: int) -> str | None:
        sequence, start, count, outputs = step.items[item]
        end = start + count
        if end > len(sequence.tokens) or (outputs and not step.want_logits and end < len(sequence.tokens)):
            return f"the sequence has {len(sequence.tokens)} tokens where the step ends at {end}"
        for group in range(len(step.program.windows)):
            for position in range(start, end):
                slot = (group, step.tables[item][group, position // PAGE], position % PAGE)
                assert slot not in step.written, "two rows of a step write to one place"
                step.written.add(slot)
                step.cache.slots[slot] = sequence.tokens[position]
        return None

    def _read_back(self, step: FakeStep, item: int, group: int, position: int) -> list[int]:
        sequence, table = step.items[item][0], step.tables[item]
        first = first_seen(position, step.program.windows[group])
        pages = [(group, table[group, p // PAGE], p % PAGE) for p in range(first, position + 1)]
        seen = [step.cache.slots[slot] for slot in pages]
        if LOST in seen:
            return seen  # planned before that was known: the answer is wrong if anyone uses it
        assert seen == sequence.tokens[first : position + 1], "a page was lost to another sequence"
        return seen


def first_seen(position: int, window: int) -> int:
    return max(0, position - window + 1) if window else 0


def vector(tokens: list[int], width: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(repr(tokens).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


class FakeTokenizer:
    """Tokens are bytes by default: END, then printable characters; more pieces may be given."""

    def __init__(self, pieces: dict[int, bytes] | None = None) -> None:
        self.pieces = {END: b""} | {i: bytes([31 + i]) for i in range(1, 97)} | (pieces or {})

    def piece(self, token: int, special: bool = False) -> bytes:
        return self.pieces[token]


class FakeDetokenizer:
    def __init__(self, tokenizer: FakeTokenizer) -> None:
        self.tokenizer = tokenizer
        self.bytes = b""

    @property
    def pending(self) -> int:
        return len(self.bytes)

    def push(self, token: int) -> str:
        self.bytes += self.tokenizer.piece(token)
        for held in range(min(3, len(self.bytes)) + 1):
            head, tail = self.bytes[: len(self.bytes) - held], self.bytes[len(self.bytes) - held :]
            try:
                text = head.decode()
            except UnicodeDecodeError:
                continue
            self.bytes = tail
            return text
        text, self.bytes = self.bytes.decode("utf-8", "replace"), b""
        return text

    def flush(self) -> str:
        self.bytes = b""
        return ""
