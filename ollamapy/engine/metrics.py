"""What the engine counts, for Prometheus. One registry for the process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()


class Histogram(Collector):
    """Like the library's own, for one thread: every token is counted, and a lock for each would cost as much as writing
    it."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        total = 0
        buckets = []
        for bound, count in zip([*map(float, self._buckets), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((str(bound), float(total)))
        yield HistogramMetricFamily(self._name, self._text, buckets, self._sum)


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

TOKENS = Counter(
    "ollamapy_tokens",
    "Tokens: prompt (all of a prompt), cached (of those, not computed again), completion (drawn).",
    ["kind"],
    registry=REGISTRY,
)
REQUESTS = Counter("ollamapy_requests", "Generations that ended, by outcome.", ["outcome"], registry=REGISTRY)
PREEMPTIONS = Counter(
    "ollamapy_preemptions", "Requests that gave their KV pages to an older one.", registry=REGISTRY
)
STEP_SECONDS = Histogram("ollamapy_step_seconds", "Time of a step on the device.", _SECONDS)
STEP_ROWS = Histogram("ollamapy_step_rows", "Rows of a step.", _ROWS)
FIRST_TOKEN_SECONDS = Histogram(
    "ollamapy_time_to_first_token_seconds",
    "From a request's arrival at the engine to its first token.",
    _SECONDS,
)
TOKEN_SECONDS = Histogram(
    "ollamapy_inter_token_seconds",
    "Between two tokens of one answer.",
    _SECONDS,
)
