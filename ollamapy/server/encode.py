"""Pieces of native answers that several endpoints share."""

from __future__ import annotations

import datetime
import time
from functools import lru_cache
from typing import Any

from ollamapy.server.service import Timing
from ollamapy.types import TokenLogprob, Usage


def timestamp(nanoseconds: int | None = None) -> str:
    """RFC 3339 with nanoseconds, UTC; now when nothing is given."""
    moment = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, rest = divmod(moment, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


@lru_cache(2)
def _second(seconds: int) -> str:
    """Many lines are written in a second."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%dT%H:%M:%S}"


_SHORTEST = 1000  # nanoseconds: a first token comes with the prompt's step
_FOREVER = 9_223_372_036  # seconds: the end of Go's clock in nanoseconds, which clients take for "for ever"


def expiry(seconds: float) -> str:
    """A moment, seconds since 1970, as RFC 3339; one that never comes lies in the year 2262."""
    return timestamp(int(min(seconds, _FOREVER) * 1e9))


def logprob_entry(entry: TokenLogprob, with_top: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}
    if with_top:
        value["top_logprobs"] = [_alternative(top) for top in entry.top]
    return value


def _alternative(top: TokenLogprob) -> dict[str, Any]:
    """Ollama knows tokens as text only: a part of a character is an empty one without bytes."""
    try:
        top.data.decode("utf-8")
    except UnicodeDecodeError:
        return {"token": "", "logprob": top.logprob}
    return {"token": top.text, "logprob": top.logprob, "bytes": list(top.data)}


_CACHE_BLOCK = 64  # tokens


def cached_tokens(usage: Usage) -> int:
    """Tokens of the prompt that were computed before, as OpenAI counts them: in whole blocks (theirs have 128)."""
    return usage.cached_tokens // _CACHE_BLOCK * _CACHE_BLOCK


def usage_fields(usage: Usage, timing: Timing) -> dict[str, int]:
    """The counts and durations of a last event, nanoseconds."""
    return {
        "total_duration": timing.total,
        "load_duration": timing.load,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": usage.prompt_ns,
        "eval_count": usage.completion_tokens,
        "eval_duration": max(usage.completion_ns, _SHORTEST),  # clients divide by it
    }
