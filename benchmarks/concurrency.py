"""Many users at once, beside llama-server with as many slots, interleaved in one run; medians as Markdown tables.

    LLAMA_SERVER=... python -m benchmarks.concurrency [--model PATH] [--streams 1,2,4,8,16,32] [--tokens 64]
                                                      [--rounds 3] [--threads N]

Streams: N conversations that begin together; aggregate tokens per second, p50 and p95 time to the first token, slowest
over fastest stream. Shared: twenty requests with one system prompt of about 1,500 tokens that arrive together, and
turn 8 of a conversation. Stall: what an 8,000-token prompt does to the tokens of a running stream.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from ollamapy._core import Device

from . import packs, wire
from .servers import MODEL, Server, llama_server, ours

SHARED_REQUESTS = 20
SHARED_WORDS = 1150  # about 1,500 tokens
LONG_WORDS = 6200  # about 8,000 tokens, which is the whole context of SmolLM2
TURNS = 8
CONTEXT = 4096  # of a slot
WORDS = (
    *("light", "colour", "prism", "ray", "glass", "water", "angle", "image"),
    *("lens", "mirror", "red", "violet", "sun", "paper", "window"),
)
Message = dict[str, str]


@dataclass(slots=True)
class Answer:
    """Times are seconds since the request was sent."""

    times: list[float]  # of each piece of text
    tokens: int
    text: str

    @property
    def first(self) -> float:
        return self.times[0]

    @property
    def last(self) -> float:
        return self.times[-1]


def prose(words: int, seed: int) -> str:
    return " ".join(WORDS[(i * i + seed * (i % 7) + i // 11 + seed) % len(WORDS)] for i in range(words))


async def ask(server: Server, messages: list[Message], tokens: int) -> Answer:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = await wire.post(f"{server.url}/v1/chat/completions", body)
    times: list[float] = []
    parts: list[str] = []
    count = 0
    for seconds, event in wire.events(lines):
        if event.get("usage"):
            count = event["usage"]["completion_tokens"]
        for choice in event.get("choices", []):
            if text := choice["delta"].get("content"):
                times.append(seconds)
                parts.append(text)
    return Answer(times or [lines[-1][0]], count, "".join(parts))


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def streams(server: Server, count: int, tokens: int, seed: int) -> dict[str, float]:
    """count conversations with a question of their own each, which begin together."""
    chats = [
        [{"role": "user", "content": f"Write a long story about {prose(24, seed * 100 + i)}."}]
        for i in range(count)
    ]
    start = time.monotonic()
    answers = await asyncio.gather(*(ask(server, chat, tokens) for chat in chats))
    seconds = time.monotonic() - start
    rates = [answer.tokens / answer.last for answer in answers]
    firsts = [answer.first for answer in answers]
    return {
        "tokens/s": sum(answer.tokens for answer in answers) / seconds,
        "p50 first": percentile(firsts, 0.5),
        "p95 first": percentile(firsts, 0.95),
        "slowest/fastest": min(rates) / max(rates),
    }


async def shared(server: Server, seed: int) -> dict[str, float]:
    """Requests with the same long system prompt that arrive together."""
    system = {"role": "system", "content": prose(SHARED_WORDS, seed + 1000)}
    start = time.monotonic()
    answers = await asyncio.gather(
        *(
            ask(
                server,
                [system, {"role": "user", "content": f"Question {i}: what is {WORDS[i % 15]}?"}],
                16,
            )
            for i in range(SHARED_REQUESTS)
        )
    )
    return {
        "all": time.monotonic() - start,
        "p50 first": percentile([answer.first for answer in answers], 0.5),
    }


async def conversation(server: Server, seed: int) -> dict[str, float]:
    """Time to the first token of the last of several turns."""
    chat: list[Message] = [{"role": "system", "content": prose(200, seed + 2000)}]
    first = 0.0
    for turn in range(TURNS):
        chat.append({"role": "user", "content": f"{prose(20, seed + turn)}. Go on."})
        answer = await ask(server, chat, 40)
        chat.append({"role": "assistant", "content": answer.text})
        first = answer.first
    return {f"first token of turn {TURNS}": first}


async def stall(server: Server, seed: int) -> dict[str, float]:
    """Gaps between the tokens of a stream, alone and while a long prompt arrives."""

    def gaps(answer: Answer, since: float = 0.0, until: float = 1e9) -> list[float]:
        times = [t for t in answer.times if since <= t <= until]
        return [b - a for a, b in itertools.pairwise(times)]

    story = [{"role": "user", "content": f"Write a very long story about {prose(12, seed)}."}]
    alone = statistics.median(gaps(await ask(server, story, 128)))
    task = asyncio.create_task(ask(server, [*story, {"role": "user", "content": "Begin."}], 700))
    await asyncio.sleep(20 * alone)
    start = 20 * alone
    long = [{"role": "user", "content": prose(LONG_WORDS, seed + 3000)}]
    other = await ask(server, long, 2)
    answer = await task
    loaded = gaps(answer, start, start + other.first)
    return {"median gap": alone, "p99 gap loaded": percentile(loaded, 0.99), "long prompt": other.first}


async def measure(servers: list[Server], counts: list[int], tokens: int, rounds: int, scenarios: str) -> None:
    figures: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for index in range(rounds):
        for server in servers:
            await ask(server, [{"role": "user", "content": "Hello"}], 2)
            runs: list[tuple[str, dict[str, float]]] = []
            if "streams" in scenarios:
                for count in counts:
                    runs.append(
                        (f"{count} streams", await streams(server, count, tokens, index * 50 + count))
                    )
            if "shared" in scenarios:
                runs.append((f"{SHARED_REQUESTS} shared", await shared(server, index)))
                runs.append(("chat", await conversation(server, index)))
            if "stall" in scenarios and server.name == "ollamapy":
                runs.append(("stall", await stall(server, index)))
            for what, found in runs:
                for key, value in found.items():
                    figures[what, key][server.name].append(value)
    names = [server.name for server in servers]
    print("| | | " + " | ".join(names) + " |" + (" ratio |" if len(names) > 1 else ""))
    print("| --- " * (2 + len(names) + (len(names) > 1)) + "|")
    for (what, key), values in figures.items():
        medians = [statistics.median(values[name]) if values[name] else None for name in names]
        cells = ["" if m is None else f"{m:.3g}" for m in medians]
        if len(names) > 1:
            both = medians[0] is not None and medians[1]
            cells.append(f"{medians[0] / medians[1]:.2f}" if both else "")
        print(f"| {what} | {key} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.concurrency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="GGUF file")
    parser.add_argument("--streams", default="1,2,4,8,16,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--scenarios", default="streams,shared,stall")
    args = parser.parse_args()
    model = args.model or packs.fetch()[0]
    threads = args.threads or Device().threads
    counts = [int(n) for n in args.streams.split(",")]
    peer = os.environ.get("LLAMA_SERVER")
    with tempfile.TemporaryDirectory() as folder:
        server = ours({MODEL: model}, Path(folder), threads, OLLAMA_CONTEXT_LENGTH="8192")
        slots = max(SHARED_REQUESTS, *counts)
        with server as first:
            print(
                f"\n{model.name}: {threads} threads, medians of {args.rounds} rounds, seconds and tokens/s\n"
            )
            if peer:
                with llama_server(peer, model, threads, slots, CONTEXT) as second:
                    servers = [first, second]
                    uvloop.run(measure(servers, counts, args.tokens, args.rounds, args.scenarios))
            else:
                uvloop.run(measure([first], counts, args.tokens, args.rounds, args.scenarios))


if __name__ == "__main__":
    main()
