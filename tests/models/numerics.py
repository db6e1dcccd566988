"""How close our numbers are to llama.cpp's F32 evaluation, beside llama.cpp's own on the same quantized file.

    python tests/models/numerics.py smollm2 model.gguf [--isa avx2] [--chunks 22] [--kv-type f16]

prints the figures that test_numerics_chat.py judges; docs/numerics.md keeps them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forward import GOLDEN, Forward, log_softmax
from kl import CHUNK, FIRST, SCORED, load


@dataclass(frozen=True)
class Divergence:
    """Over the scored positions of English text."""

    positions: int
    kl: float  # mean KL(llama.cpp's F32 || ours), over the reference's best tokens and a bucket for the rest
    kl_default: float  # the same of llama.cpp's default evaluation of the quantized file
    perplexity: float
    perplexity_f32: float
    perplexity_default: float


@dataclass(frozen=True)
class Agreement:
    """Along llama.cpp's greedy text: is our best token its best token?"""

    positions: int
    share: float  # of all positions
    clear: int  # positions where its lead over the second is more than 1 nat
    missed: int  # of those, where ours is another


def divergence(model: Forward, name: str, chunks: int | None = None) -> Divergence:
    reference = load(GOLDEN / f"kl-{name}.npz")
    count = len(reference.tokens) if chunks is None else chunks
    kl, scores = [], []
    for i, tokens in enumerate(reference.tokens[:count]):
        rows = log_softmax(model.logits(tokens[: CHUNK - 1].tolist(), FIRST))
        kl.append(reference.truncated_kl(i * SCORED, rows))
        scores.append(np.take_along_axis(rows, tokens[FIRST + 1 :, None], axis=1))
    return Divergence(
        positions=count * SCORED,
        kl=float(np.mean(kl)),
        kl_default=reference.kl_default_truncated,
        perplexity=float(np.exp(-np.mean(scores, dtype=np.float64))),
        perplexity_f32=float(np.exp(np.log(reference.perplexity_f32[:count]).mean())),
        perplexity_default=float(np.exp(np.log(reference.perplexity_default[:count]).mean())),
    )


def agreement(model: Forward, name: str) -> Agreement:
    with np.load(GOLDEN / f"greedy-{name}.npz") as golden:
        lengths, ids = golden["prompt_lengths"], golden["prompt_ids"]
        top_ids, top_logprobs = golden["top_ids"], golden["top_logprobs"]
    ours = []
    for i, prompt in enumerate(np.split(ids, np.cumsum(lengths)[:-1])):
        text = np.concatenate([prompt, top_ids[i, :-1, 0]])
        ours.append(model.logits(text.tolist(), len(prompt) - 1).argmax(axis=1))
    same = np.stack(ours) == top_ids[:, :, 0]
    clear = top_logprobs[:, :, 0] - top_logprobs[:, :, 1] > 1.0
    return Agreement(same.size, float(same.mean()), int(clear.sum()), int((clear & ~same).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Our numbers beside llama.cpp's.")
    parser.add_argument("name", choices=["smollm2", "gemma3"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--isa", default="")
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--kv-type", choices=["f16", "q8_0", "q4_0"], default="f16")
    arguments = parser.parse_args()
    model = Forward(arguments.path, isa=arguments.isa, kv_type=arguments.kv_type)
    print("instruction set", model.device.isa, "KV type", arguments.kv_type)
    print(divergence(model, arguments.name, arguments.chunks))
    print(agreement(model, arguments.name))
    model.close()


if __name__ == "__main__":
    main()
