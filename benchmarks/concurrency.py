"""32 requests of different lengths through the engine: one after the other, then all at once, arriving as they come.

    python -m benchmarks.concurrency [--model PATH] [--streams 32] [--tokens 24] [--threads N]

Prints the seconds of both, how many rows the steps had, and whether the answers were the same to the bit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

from ollamapy.engine import Engine
from ollamapy.engine.model import Model
from ollamapy.types import GenerationRequest, SamplingOptions

from . import packs

ARRIVAL_SECONDS = 0.02  # between one request and the next
LONGEST = 200  # tokens of a prompt

Answer = list[tuple[int, float]]  # tokens and their log probabilities


async def answer(model: Model, request: GenerationRequest, delay: float = 0.0) -> Answer:
    await asyncio.sleep(delay)
    deltas = [delta async for delta in model.generate(request)]
    return [(entry.token, entry.logprob) for delta in deltas for entry in delta.logprobs]


def requests(model: Model, streams: int, tokens: int) -> list[GenerationRequest]:
    """Prompts of 5 to LONGEST tokens in no order; every other one greedy, the others seeded."""
    dice = random.Random(1)
    lengths = [5 + i * (LONGEST - 5) // max(1, streams - 1) for i in range(streams)]
    dice.shuffle(lengths)
    words = model.tokenizer.encode(" light colour prism ray glass water", add_special=False)
    head = [model.tokenizer.bos] if model.tokenizer.add_bos and model.tokenizer.bos is not None else []
    out = []
    for i, length in enumerate(lengths):
        prompt = head + [dice.choice(words) for _ in range(length - len(head))]
        sampling = SamplingOptions(temperature=0.0 if i % 2 else 0.9, seed=i)
        out.append(GenerationRequest(prompt, sampling, num_predict=tokens, logprobs=0))
    return out


async def compare(path: Path, streams: int, tokens: int, threads: int) -> None:
    engine = Engine(threads)
    await engine.start()
    model = await engine.load(str(path))
    asked = requests(model, streams, tokens)
    await answer(model, asked[0])  # pages and caches are warm for both
    start = time.monotonic()
    alone = [await answer(model, request) for request in asked]
    middle = time.monotonic()
    before = engine.steps.steps_by_rows.copy()
    together = await asyncio.gather(
        *(answer(model, request, i * ARRIVAL_SECONDS) for i, request in enumerate(asked))
    )
    end = time.monotonic()
    steps = engine.steps.steps_by_rows - before
    full = sum(count for rows, count in steps.items() if rows >= 8) / steps.total()
    await engine.close()
    print(f"\n{path.name}: {streams} requests of 5 to {LONGEST} tokens, up to {tokens} tokens each")
    print(f"  one after the other {middle - start:6.2f} s")
    print(f"  together            {end - middle:6.2f} s, {(end - middle) / (middle - start):.2f} of it")
    print(f"  steps of 8 rows or more: {full:.0%}; answers {'equal' if alone == together else 'DIFFERENT'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    for model in args.model or packs.fetch():
        asyncio.run(compare(model, args.streams, args.tokens, args.threads))


if __name__ == "__main__":
    main()
