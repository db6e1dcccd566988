"""What the engine counts, for Prometheus. One registry for the process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()

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
STEP_SECONDS = Histogram(
    "ollamapy_step_seconds", "Time of a step on the device.", buckets=_SECONDS, registry=REGISTRY
)
STEP_ROWS = Histogram("ollamapy_step_rows", "Rows of a step.", buckets=_ROWS, registry=REGISTRY)
FIRST_TOKEN_SECONDS = Histogram(
    "ollamapy_time_to_first_token_seconds",
    "From a request's arrival at the engine to its first token.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
TOKEN_SECONDS = Histogram(
    "ollamapy_inter_token_seconds",
    "Between two tokens of one answer.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
