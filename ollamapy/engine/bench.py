"""How fast a model runs, taken at the engine's step interface as llama-bench takes it at llama_decode.

`ollamapy bench` and benchmarks/ measure with this.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ollamapy._core import (
    PAGE_TOKENS,
    Device,
    Instruction,
    KVCache,
    Runner,
    SamplingParams,
    Sequence,
    StepResult,
    release_memory,
)
from ollamapy.engine.parts import Parts, Settings, prepare
from ollamapy.types import ContextLengthError, EngineError, UnsupportedModelError

CHUNK = 512  # prompt tokens in a step
STREAM_PROMPT = 16  # tokens that streams begin with when they are measured together
STREAM_TOKENS = 64  # what each of them generates then
FIRST_PROMPT = 16  # tokens of the prompt whose first token is waited for
_PLAIN = 3  # the first tokens of a vocabulary are special ones


@dataclass(frozen=True, order=True)
class Case:
    """What is measured: a prompt of so many tokens ("prefill"), so many tokens of one stream behind a prompt of
    depth ("decode"), or those of streams together ("streams")."""

    kind: str
    tokens: int
    depth: int = 0
    streams: int = 1

    @property
    def label(self) -> str:
        if self.kind == "streams":
            return f"decode {self.tokens}, {self.streams} streams"
        return f"{self.kind} {self.tokens}" + (f" at depth {self.depth}" if self.depth else "")

    @property
    def positions(self) -> int:
        """Tokens of context that a stream takes."""
        return self.tokens + (0 if self.kind == "prefill" else max(self.depth, 1))


def streams_case(streams: int) -> Case:
    """Streams together, as every table has them."""
    return Case("streams", STREAM_TOKENS, STREAM_PROMPT, streams)


@dataclass(frozen=True)
class Work:
    """What the products of one step do."""

    int8_operations: int  # 2 for each multiplication and its addition
    f32_operations: int
    nbytes: int  # of packed weights, which are read once


class Bench:
    """One model in memory, on a device of its own.

    Raises UnsupportedModelError for a model that does not generate or that we do not run, GGUFError, OSError,
    MemoryError.
    """

    def __init__(self, path: str, threads: int = 0, streams: int = 16, adapter: str = "") -> None:
        self.device = Device(threads)
        self._parts = _load(path, self.device, streams, adapter)
        self.program = self._parts.program
        self.context_length = self._parts.architecture.context_length
        self.instructions = self.program.instructions
        self._vocabulary: int = self._parts.file.tensor("token_embd.weight").shape[1]
        self._runner = Runner(self.device)
        self._random = np.random.default_rng(0)

    @property
    def token_bytes(self) -> int:
        """Bytes of the file's tensors that a token needs: those of all products, however they are packed."""
        names = {name for instruction in self.instructions for name, *_ in instruction.weights}
        return sum(tensor.nbytes for tensor in self._parts.file.tensors() if tensor.name in names)

    def work(self, rows: int, outputs: int) -> Work:
        """What a step of so many rows, of which so many are sampled, computes and reads."""
        works = [work_of(instruction, rows, outputs) for instruction in self.instructions]
        return Work(
            sum(work.int8_operations for work in works),
            sum(work.f32_operations for work in works),
            sum(work.nbytes for work in works),
        )

    def check(self, case: Case) -> None:
        """Raises ContextLengthError for a case that the model's context has no room for."""
        if case.positions > self.context_length:
            raise ContextLengthError(
                f"{case.label} needs {case.positions} tokens of context, the model has {self.context_length}"
            )

    def run(self, case: Case) -> float:
        """Tokens per second of all streams together. Raises EngineError when a step fails."""
        self.check(case)
        if case.kind == "prefill":
            return self.prefill(case.tokens)
        return self.decode(case.tokens, case.depth, case.streams)

    def prefill(self, tokens: int) -> float:
        """Tokens per second of one prompt, after one like it, as llama-bench has it."""
        cache = self._cache(1, tokens)
        self._prefill(cache, self._sequences(1, tokens, tokens), tokens)
        return tokens / self._prefill(cache, self._sequences(1, tokens, tokens), tokens)

    def decode(self, tokens: int, depth: int = 0, streams: int = 1) -> float:
        """Tokens per second of streams together, each `tokens` long after a prompt of max(depth, 1)."""
        prompt = max(depth, 1)
        cache = self._cache(streams, prompt + tokens)
        sequences = self._sequences(streams, prompt, prompt + tokens)
        self._prefill(cache, sequences, prompt)
        for position in range(prompt, prompt + tokens):
            self._runner.submit(self.program, cache, [(sequence, position, 1, 1) for sequence in sequences])
        return streams * tokens / self._wait()

    def profile(self, rows: int, streams: int, repeat: int) -> list[float]:
        """Seconds a step of every instruction, for steps with `rows` new tokens of each of `streams`."""
        tokens = rows * (repeat + 1)
        cache, sequences = self._cache(streams, tokens), self._sequences(streams, tokens, tokens)
        self._runner.submit(self.program, cache, [(s, 0, rows, 1) for s in sequences])
        self._runner.start_profile()
        for step in range(1, repeat + 1):
            self._runner.submit(self.program, cache, [(s, step * rows, rows, 1) for s in sequences])
        times = self._runner.stop_profile()
        self._runner.drain()  # steps over known tokens report that there was nothing to draw
        return [ns / 1e9 / repeat for ns in times]

    def _cache(self, streams: int, tokens: int) -> KVCache:
        """A cache that holds so many streams of so many tokens."""
        pages = -(-tokens // PAGE_TOKENS)
        return KVCache(self.program, [pages * streams] * len(self.program.groups))

    def _sequences(self, streams: int, prompt: int, tokens: int) -> list[Sequence]:
        """Streams of random prompts, with the pages of a cache for so many tokens."""
        pages = -(-tokens // PAGE_TOKENS)
        sequences = []
        for stream in range(streams):
            random = self._random.integers(min(_PLAIN, self._vocabulary - 1), self._vocabulary, prompt)
            sequence = Sequence(random.tolist(), SamplingParams(temperature=0.0))
            for index in range(pages):
                for group in range(len(self.program.groups)):
                    sequence.set_page(group, index, stream * pages + index)
            sequences.append(sequence)
        return sequences

    def _prefill(self, cache: KVCache, sequences: list[Sequence], prompt: int) -> float:
        for sequence in sequences:
            for start in range(0, prompt, CHUNK):
                count = min(CHUNK, prompt - start)
                item = (sequence, start, count, int(start + count == prompt))
                self._runner.submit(self.program, cache, [item])
        return self._wait()

    def _wait(self) -> float:
        """Seconds on the device of all steps submitted."""
        return _seconds(self._runner.wait())


def time_to_first_token(path: str, threads: int = 0, adapter: str = "") -> float:
    """Seconds from nothing in memory to the first token after a short prompt; what was loaded is let go of.

    The file is read out of the page cache as far as it lies there. Raises as Bench does.
    """
    start = time.perf_counter()
    device = Device(threads)
    parts = _load(path, device, 1, adapter)
    cache = KVCache(parts.program, [1] * len(parts.program.groups))
    sequence = Sequence([0] * FIRST_PROMPT, SamplingParams(temperature=0.0))
    for group in range(len(parts.program.groups)):
        sequence.set_page(group, 0, 0)
    runner = Runner(device)
    runner.submit(parts.program, cache, [(sequence, 0, FIRST_PROMPT, 1)])
    _seconds(runner.wait())
    end = time.perf_counter()
    del runner, sequence, cache, parts, device
    release_memory()
    return end - start


def _load(path: str, device: Device, streams: int, adapter: str) -> Parts:
    parts = prepare(path, device, Settings(prefill_rows=CHUNK, max_sequences=streams), adapter)
    if parts.architecture.bidirectional:
        raise UnsupportedModelError(
            "the model only embeds, it does not generate: there is nothing to measure"
        )
    parts.read()
    return parts


def _seconds(results: list[StepResult]) -> float:
    errors = [r.error or r.item_errors for r in results if r.error or r.item_errors]
    if errors:
        raise EngineError(f"a step failed: {errors[0]}")
    return results[-1].ended - results[0].started


def work_of(instruction: Instruction, rows: int, outputs: int) -> Work:
    """What the products of an instruction do for so many rows, of which so many are sampled."""
    count = outputs if instruction.rows == "logits" else rows
    int8 = f32 = nbytes = 0
    for _, kind, height, width, size in instruction.weights:
        nbytes += size
        if kind.startswith("Q"):
            int8 += 2 * count * height * width
        else:
            f32 += 2 * count * height * width
    return Work(int8, f32, nbytes)


def read_bandwidth(threads: int, size: int = 1 << 30, rounds: int = 5) -> float:
    """Bytes per second: the best of some reads of a gigabyte, split over threads."""
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, size / (time.perf_counter() - start))
    return best
