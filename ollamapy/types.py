"""The types everything agrees on: the internal request and the delta.

Dialects (server/) build a GenerationRequest and encode Deltas; the engine turns one into the other. Neither knows the
other's world: no HTTP here, no tensors there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DoneReason = Literal["stop", "length", "load", "unload"]


@dataclass(slots=True)
class SamplingOptions:
    """How a token is drawn; the defaults are Ollama's."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64  # 0: off, -1: num_ctx
    seed: int | None = None  # None: drawn anew for each request
    logit_bias: dict[int, float] = field(default_factory=dict)  # token to what is added to its logit


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to look like: a grammar in llguidance's notation (engine/constrained_grammar.py makes
    them)."""

    grammar: str
    thought: tuple[str, str] | None = None  # tags of a thought that may come before it
    thought_open: bool = False  # the prompt ends inside of such a thought


@dataclass(slots=True)
class GenerationRequest:
    """One prompt to be continued. Token ids only: templates and tokenizing lie behind us."""

    prompt: list[int]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    num_ctx: int = 4096
    num_predict: int = -1  # <= 0: no limit of one's own (the answer still ends after 10 * num_ctx tokens)
    num_keep: int = 4
    stop: tuple[str, ...] = ()
    shift: bool = (
        True  # when the window is full: keep num_keep tokens and the newer half, else end with "length"
    )
    truncate: bool = (
        True  # when the prompt exceeds num_ctx: cut it the same way, else raise ContextLengthError
    )
    logprobs: int = -1  # < 0: none; n >= 0: the token's own and the n best
    constraint: Constraint | None = None
    branch: int = 0  # tells the answers to one prompt apart: each draws its own random numbers
    visible: frozenset[int] = frozenset()  # control tokens whose text is a part of the answer's
    client: str = ""  # who asks: requests of one client share its turns
    usage: Usage = field(default_factory=lambda: Usage())  # the engine keeps it up to date


@dataclass(slots=True)
class TokenLogprob:
    """The model's own log probability of a token, before penalties, cuts and temperature."""

    token: int
    text: str
    data: bytes  # the token's bytes, which may be a part of a character
    logprob: float
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(slots=True)
class Usage:
    """What a request has cost: its prompt so far, its answer once it has ended. Durations are nanoseconds, measured on
    the device thread's clock."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    completion_ns: int = 0
    total_ns: int = 0
    queue_ns: int = 0  # from its arrival at the engine to its first step
    first_token: float = 0.0  # when it was drawn, seconds of the monotonic clock; 0: not yet


@dataclass(slots=True)
class Delta:
    """A piece of an answer. The last one has done_reason and usage; its text may be empty."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done_reason: DoneReason | None = None
    stop: str | None = None  # the stop sequence that ended it
    usage: Usage | None = None


class RequestError(ValueError):
    """A request that cannot be served as it is; a dialect answers it with status."""

    status = 400


class ContextLengthError(RequestError):
    """The input does not fit the context and the request forbids cutting it."""


class UnsupportedModelError(RequestError):
    """A file that we do not run; the message names the architecture, tensor type or hyperparameter."""


class EngineError(RuntimeError):
    """The engine failed while it worked on a request."""
