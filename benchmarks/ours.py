"""OllamaPy's own figures, taken at the engine's step interface as llama-bench takes them at llama_decode."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ollamapy import models
from ollamapy._core import (
    PAGE_TOKENS,
    Device,
    GGUFFile,
    Graph,
    KVCache,
    Program,
    Runner,
    SamplingParams,
    Sequence,
    Weights,
)

CHUNK = 512
MOST_STREAMS = 16


class Ours:
    """One model on one device."""

    def __init__(self, path: Path, threads: int) -> None:
        self.device = Device(threads)
        file = GGUFFile(str(path))
        weights = Weights(file, self.device)
        graph = Graph(weights)
        self.program: Program = graph.compile(models.check(file).logits(graph), CHUNK, MOST_STREAMS)
        self.weight_bytes: int = weights.nbytes  # what a token reads
        self.runner = Runner(self.device)
        self.vocabulary = file.array_length("tokenizer.ggml.tokens")
        self.random = np.random.default_rng(0)

    def _cache(self, streams: int, tokens: int) -> KVCache:
        """A cache that holds so many streams of so many tokens."""
        pages = -(-tokens // PAGE_TOKENS)
        return KVCache(self.program, [pages * streams] * len(self.program.groups))

    def _sequences(self, streams: int, prompt: int, tokens: int) -> list[Sequence]:
        """Streams of random prompts, with the pages of a cache for so many tokens."""
        pages = -(-tokens // PAGE_TOKENS)
        sequences = []
        for stream in range(streams):
            tokens = self.random.integers(3, self.vocabulary, prompt).tolist()
            sequence = Sequence(tokens, SamplingParams(temperature=0.0))
            for index in range(pages):
                for group in range(len(self.program.groups)):
                    sequence.set_page(group, index, stream * pages + index)
            sequences.append(sequence)
        return sequences

    def _run(self) -> float:
        """Seconds on the device of all steps submitted."""
        results = self.runner.wait()
        errors = [r.error or r.item_errors for r in results if r.error or r.item_errors]
        if errors:
            raise RuntimeError(f"a step failed: {errors[0]}")
        return results[-1].ended - results[0].started

    def _prefill(self, cache: KVCache, sequences: list[Sequence], prompt: int) -> float:
        for sequence in sequences:
            for start in range(0, prompt, CHUNK):
                count = min(CHUNK, prompt - start)
                self.runner.submit(
                    self.program, cache, [(sequence, start, count, int(start + count == prompt))]
                )
        return self._run()

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
            self.runner.submit(self.program, cache, [(sequence, position, 1, 1) for sequence in sequences])
        return streams * tokens / self._run()

    def profile(self, rows: int, streams: int, repeat: int = 20) -> list[tuple[str, float]]:
        """(instruction, milliseconds a step), of steps with `rows` new tokens for each of `streams`."""
        tokens = rows * (repeat + 1)
        cache, sequences = self._cache(streams, tokens), self._sequences(streams, tokens, tokens)
        self.runner.submit(self.program, cache, [(s, 0, rows, 1) for s in sequences])
        self.runner.start_profile()
        for step in range(1, repeat + 1):
            self.runner.submit(self.program, cache, [(s, step * rows, rows, 1) for s in sequences])
        times = self.runner.stop_profile()
        self.runner.drain()  # steps over known tokens report that there was nothing to draw
        lines = self.program.describe().splitlines()
        return [(line, ns / 1e6 / repeat) for line, ns in zip(lines, times, strict=True)]


def read_bandwidth(threads: int, size: int = 1 << 30, rounds: int = 5) -> float:
    """Bytes per second: the best of some reads of a gigabyte, split over threads."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, size / (time.perf_counter() - start))
    return best
