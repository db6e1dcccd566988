"""An independent sampler, in double precision on sorted lists, and the means to compare with it.

A draw is predicted exactly, with a Philox-4x32-10 of its own; a distribution is compared by Pearson's test.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy._core import SamplingParams, sample

Logits = NDArray[np.float32]
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}  # every cut off
DEFAULTS: dict[str, Any] = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "repeat_last_n": 64, "seed": 0, "branch": 0,
}  # fmt: skip


def philox(counter: list[int], key: list[int]) -> list[int]:
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def uniform(seed: int, branch: int, position: int) -> float:
    def words(value: int) -> list[int]:
        return [value % 2**32, value // 2**32 % 2**32]

    c = philox(words(position) + words(branch), words(seed))
    return (c[1] * 2**32 + c[0] >> 11) / 2**53


def penalized(logits: Logits, history: list[int], o: dict[str, Any]) -> list[float]:
    out = [float(x) for x in logits]
    last = o["repeat_last_n"]
    window = history if last < 0 else history[max(0, len(history) - last) :]
    for token in set(window):
        if not 0 <= token < len(out):
            continue
        x = out[token]
        x = x * o["repeat_penalty"] if x <= 0 else x / o["repeat_penalty"]
        x -= window.count(token) * o["frequency_penalty"] + o["presence_penalty"]
        out[token] = float(np.float32(x))
    return out


def survivors(logits: Logits, history: list[int], o: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Tokens that may be drawn, best first, and their weights."""
    x = penalized(logits, history, o)
    kept = sorted((i for i in range(len(x)) if x[i] > -math.inf), key=lambda i: (-x[i], i))
    if o["top_k"] > 0:
        kept = kept[: o["top_k"]]
    if o["typical_p"] < 1:
        p = softmax([x[i] for i in kept])
        surprise = [math.inf if q == 0 else -math.log(q) for q in p]
        entropy = sum(q * s for q, s in zip(p, surprise, strict=True) if q > 0)
        order = sorted(range(len(kept)), key=lambda n: abs(surprise[n] - entropy))
        total, chosen = 0.0, []
        for n in order:
            chosen.append(kept[n])
            total += p[n]
            if total > o["typical_p"]:
                break
        kept = sorted(chosen, key=lambda i: (-x[i], i))
    if o["top_p"] < 1:
        p = softmax([x[i] for i in kept])
        total, count = 0.0, 0
        for q in p:
            total += q
            count += 1
            if total >= o["top_p"]:
                break
        kept = kept[:count]
    if o["min_p"] > 0:
        floor = x[kept[0]] + math.log(o["min_p"])
        kept = [kept[0]] + [i for i in kept[1:] if x[i] >= floor]
    if o["temperature"] <= 0:
        kept = kept[:1]
    scale = o["temperature"] if o["temperature"] > 0 else 1.0
    return kept, [math.exp((x[i] - x[kept[0]]) / scale) for i in kept]


def softmax(x: list[float]) -> list[float]:
    best = max(x)
    weights = [math.exp(v - best) for v in x]
    total = math.fsum(weights)
    return [w / total for w in weights]


def expected(logits: Logits, history: list[int], options: dict[str, Any], position: int) -> int:
    o = DEFAULTS | options
    kept, weights = survivors(logits, history, o)
    target = uniform(o["seed"], o["branch"], position) * math.fsum(weights)
    for token, total in zip(kept, itertools.accumulate(weights), strict=True):
        if total > target:
            return token
    return kept[-1]


def draw(logits: Any, history: list[int], position: int, **options: Any) -> int:
    return sample(np.asarray(logits, np.float32), history, SamplingParams(**options), position)[0]


def support(logits: Any, n: int = 2000, **options: Any) -> set[int]:
    """What can be drawn at all: the temperature comes last, so a high one shows every survivor."""
    row = np.asarray(logits, np.float32)
    params = SamplingParams(**(OFF | {"temperature": 1e6} | options))
    return {sample(row, [], params, i)[0] for i in range(n)}


def logs(probabilities: list[float]) -> Logits:
    return np.log(np.array(probabilities)).astype(np.float32)


def assert_distribution(drawn: list[int], p: dict[int, float]) -> None:
    """Pearson's test with a false alarm below 1e-6 (Wilson-Hilferty, z = 5)."""
    counts = {token: 0 for token in p}
    for token in drawn:
        assert token in counts, f"token {token} must not be drawn"
        counts[token] += 1
    cells = [(counts[t], len(drawn) * p[t]) for t in p if len(drawn) * p[t] >= 5]
    rest = (
        sum(counts[t] for t in p if len(drawn) * p[t] < 5),
        sum(len(drawn) * p[t] for t in p if len(drawn) * p[t] < 5),
    )
    if rest[1] >= 1:
        cells.append(rest)
    statistic = sum((seen - want) ** 2 / want for seen, want in cells)
    k = max(len(cells) - 1, 1)
    assert statistic <= k * (1 - 2 / (9 * k) + 5 * math.sqrt(2 / (9 * k))) ** 3, (statistic, k, cells)
