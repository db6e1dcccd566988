"""What a grammar costs: milliseconds per step of several streams, free and under a JSON schema, in turns. The two of a
round make a pair, so that what slows the machine down for a while slows both; the median of the pairs' ratios counts.

python -m benchmarks.constrained [--model PATH] [--streams 8] [--tokens 96] [--rounds 9] [--threads N]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from statistics import median

import uvloop

from ollamapy.engine import Engine
from ollamapy.engine.constrained_grammar import schema_grammar
from ollamapy.engine.model import Model
from ollamapy.types import Constraint, GenerationRequest, SamplingOptions

from . import packs

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
    },
    "required": ["name", "age", "tags"],
}
_SCHEMA = {"type": "array", "items": _PERSON, "minItems": 50, "maxItems": 60}  # more than is written


async def milliseconds(model: Model, constraint: Constraint | None, streams: int, tokens: int) -> float:
    """Of one step of all streams, from the first token to the last."""
    prompt = model.tokenizer.encode("A list of people, as JSON:\n")
    bias = {token: -100.0 for token in model.tokenizer.eog}  # free answers do not end either

    async def run(seed: int) -> float:
        sampling = SamplingOptions(temperature=0.8, seed=seed, logit_bias=bias)
        request = GenerationRequest(prompt, sampling, num_predict=tokens, constraint=constraint)
        async for delta in model.generate(request):
            if delta.usage is not None:
                return delta.usage.completion_ns / 1e6 / (delta.usage.completion_tokens - 1)
        raise AssertionError("an answer without an end")

    return max(await asyncio.gather(*(run(seed) for seed in range(streams))))


async def compare(path: Path, streams: int, tokens: int, rounds: int, threads: int) -> None:
    engine = Engine(threads)
    await engine.start()
    model = await engine.load(await engine.prepare(str(path)))
    constraint = Constraint(schema_grammar(_SCHEMA))
    before = time.monotonic()
    await milliseconds(model, constraint, 1, 2)
    print(f"\n{path.name}: the first constrained answer began after {time.monotonic() - before:.2f} s")
    free, held = [], []
    for turn in range(rounds):
        for constrained in (False, True) if turn % 2 else (True, False):  # neither is always the second
            times = held if constrained else free
            times.append(await milliseconds(model, constraint if constrained else None, streams, tokens))
        print(f"  round {turn + 1}: free {free[-1]:.2f} ms, constrained {held[-1]:.2f} ms")
    await engine.close()
    print(
        f"  {streams} streams, medians of {rounds} rounds: free {median(free):.2f} ms a step, "
        f"under a schema {median(held):.2f} ms"
    )
    ratios = sorted(under / alone - 1 for alone, under in zip(free, held, strict=True))
    print(f"  {median(ratios):+.1%} a token (from {ratios[0]:+.1%} to {ratios[-1]:+.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.constrained", description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    for model in args.model or packs.fetch():
        uvloop.run(compare(model, args.streams, args.tokens, args.rounds, args.threads))


if __name__ == "__main__":
    main()
