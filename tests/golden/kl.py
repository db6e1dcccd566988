"""The compact form of reference distributions: per position the best ids, their log probabilities, the rest.

A chunk is 512 tokens, the tokenizer's BOS first where the model wants one; positions 256..510 are scored,
each against the token after it. Log probabilities are kept in steps of 1/512 nat, as differences of
neighbours (they deflate well).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CHUNK: Final = 512
FIRST: Final = 256
SCORED: Final = CHUNK - 1 - FIRST  # positions 256..510 of each chunk
STEP: Final = 1.0 / 512.0

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    tokens: I64  # (chunks, CHUNK)
    ids: I64  # (positions, top), most probable first; positions = chunks * SCORED
    logprobs: F64  # (positions, top)
    rest: F64  # (positions): log of the probability that the other tokens share
    perplexity_f32: F64  # (chunks): llama.cpp's F32 evaluation
    perplexity_default: F64  # (chunks): llama.cpp's default evaluation of the quantized file
    kl_default: float  # mean KL(F32 || default) over the whole vocabulary
    kl_default_truncated: float  # the same by `truncated_kl`

    def truncated_kl(self, position: int, logprobs: F32) -> F64:
        """KL(reference || ours) of positions from `position` on, over the best ids and a bucket for the rest.

        logprobs: (n, n_vocab), normalized. Never above the full KL (but for rounding).
        """
        here = slice(position, position + len(logprobs))
        ours = np.take_along_axis(logprobs, self.ids[here], axis=1).astype(np.float64)
        ours_rest = np.log(np.maximum(1.0 - np.exp(ours).sum(axis=1), 1e-12))
        log_p = np.column_stack([self.logprobs[here], self.rest[here]])
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        result: F64 = (np.exp(log_p) * (log_p - np.column_stack([ours, ours_rest]))).sum(axis=1)
        return result


def pack(logprobs: F32, top: int) -> dict[str, npt.NDArray[Any]]:
    """The compact form of (n, n_vocab) log probabilities."""
    best = np.argpartition(-logprobs, top, axis=1)[:, :top]
    values = np.take_along_axis(logprobs, best, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    ids, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
    mass = np.exp(logprobs, dtype=np.float64)
    np.put_along_axis(mass, ids, 0.0, axis=1)
    grid = np.round(values / -STEP).astype(np.int64)
    gaps = np.diff(grid, axis=1, prepend=0)
    return {
        "ids_low": (ids & 0xFFFF).astype(np.uint16),
        "ids_high": (ids >> 16).astype(np.uint8),
        "gaps": gaps.astype(np.uint16),
        "rest": np.log(mass.sum(axis=1)).astype(np.float32),
    }


def unpack(arrays: Mapping[str, npt.NDArray[Any]]) -> Reference:
    unknown = np.array(np.nan)
    return Reference(
        tokens=arrays["tokens"].astype(np.int64),
        ids=arrays["ids_low"].astype(np.int64) | arrays["ids_high"].astype(np.int64) << 16,
        logprobs=np.asarray(np.cumsum(arrays["gaps"].astype(np.int64), axis=1) * -STEP, np.float64),
        rest=arrays["rest"].astype(np.float64),
        perplexity_f32=arrays["perplexity_f32"],
        perplexity_default=arrays.get("perplexity_default", unknown),
        kl_default=float(arrays.get("kl_default", unknown)),
        kl_default_truncated=float(arrays.get("kl_default_truncated", unknown)),
    )


def load(path: Path) -> Reference:
    with np.load(path) as file:
        return unpack(dict(file))
