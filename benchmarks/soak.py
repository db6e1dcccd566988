"""Many clients for a long time: `python -m benchmarks.soak [--seconds 600] [--clients 32] [--cache off]`.

Clients of every kind ask two models for texts, conversations and vectors at once; a third of them hang up, in the
queue, while their prompt is read, in the middle of the answer, or right after a whole request. Checked: no request
fails; memory and descriptors do not grow after the first minute; every greedy and every seeded text is the one that
the same request gets alone on a fresh server without prefix cache. Prints a line every ten seconds and exits with 1
when something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from . import packs
from .servers import Server, ours

MODELS = ("smollm2", "gemma3")
PREFIXES = 6  # texts that requests begin with, so that they share pages
GROWTH = 32 << 20  # bytes that a process may grow by after the first minute
FIGURES_EVERY = 10.0  # seconds
KV_MEMORY = 192 << 20  # bytes of KV pages of each model: the cache is full within the first minute

Body = dict[str, Any]


@dataclass
class State:
    """What has happened so far."""

    answers: dict[str, str] = field(default_factory=dict)  # request (JSON) → text
    done: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)


def text(dice: random.Random, words: int) -> str:
    choice = ("light", "colour", "prism", "ray", "glass", "water", "angle", "image", "lens", "mirror")
    return " ".join(dice.choice(choice) for _ in range(words))


def request(dice: random.Random) -> Body:
    """A text of a kind that repeats: greedy or seeded, short or longer than Gemma's window, shared or not."""
    model = dice.choice(MODELS)
    prefix = text(
        random.Random(dice.randrange(PREFIXES)), dice.choice([5, 60, 420 if model == "gemma3" else 200])
    )
    options: Body = {"num_predict": dice.choice([4, 16, 40]), "num_ctx": dice.choice([256, 1024, 2048])}
    options |= {"temperature": 0} if dice.random() < 0.5 else {"seed": dice.randrange(3), "temperature": 0.9}
    return {
        "model": model,
        "prompt": f"{prefix} {text(dice, dice.choice([0, 3, 10]))}".strip(),
        "raw": True,
        "stream": True,
        "options": options,
    }


async def answer(
    client: aiohttp.ClientSession, server: Server, body: Body, most: int = 1 << 30
) -> str | None:
    """The whole text; None when the client leaves after most lines."""
    parts: list[str] = []
    async with client.post(f"{server.url}/api/generate", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {await response.text()}")
        if most == 0:
            return None
        async for line in response.content:
            event = json.loads(line)
            if "error" in event:
                raise RuntimeError(event["error"])
            parts.append(event["response"])
            if event["done"]:
                return "".join(parts)
            if len(parts) >= most:
                return None
    raise RuntimeError("the stream ended without its last line")


async def user(number: int, server: Server, state: State, end: float) -> None:
    """Asks again and again; every third one also hangs up."""
    dice = random.Random(number)
    leaves = number % 3 == 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client:
        while time.monotonic() < end:
            body = request(dice)
            try:
                if number % 8 == 7:
                    vectors = {"model": body["model"], "input": [body["prompt"][:200], "light"]}
                    async with client.post(f"{server.url}/api/embed", json=vectors) as response:
                        response.raise_for_status()
                        await response.read()
                elif leaves and dice.random() < 0.7:
                    work = answer(client, server, body, dice.choice([0, 1, 5]))
                    await asyncio.wait_for(work, dice.choice([0.001, 0.05, 0.5, 30]))
                    state.left += 1
                else:
                    found = await answer(client, server, body)
                    key = json.dumps(body, sort_keys=True)
                    if found is not None and state.answers.setdefault(key, found) != found:
                        state.problems.append(f"two answers to {key[:200]}")
            except asyncio.TimeoutError:
                state.left += 1
            except (aiohttp.ClientError, RuntimeError, ValueError) as error:
                state.problems.append(f"client {number}: {type(error).__name__}: {error}")
            state.done += 1


async def watch(server: Server, state: State, start: float, end: float) -> None:
    """Prints how it stands; memory and descriptors are compared with what they were after a minute."""
    settled: tuple[int, int] | None = None
    while time.monotonic() < end:
        await asyncio.sleep(FIGURES_EVERY)
        since = time.monotonic() - start
        memory, descriptors = server.resident_bytes, server.descriptors
        if settled is None and since >= min(60.0, (end - start) / 2):
            settled = memory, descriptors
        print(
            f"{since:6.0f} s  {state.done} requests, {state.left} hung up, {len(state.answers)} texts, "
            f"{memory >> 20} MiB, {descriptors} descriptors, {len(state.problems)} problems",
            flush=True,
        )
    if settled is None:
        return
    # Connections of clients who are between two requests stay open: descriptors go up and down with those.
    if server.resident_bytes > settled[0] + GROWTH:
        state.problems.append(f"memory grew from {settled[0] >> 20} to {server.resident_bytes >> 20} MiB")
    if server.descriptors > settled[1] + 4:
        state.problems.append(f"descriptors grew from {settled[1]} to {server.descriptors}")


async def alone(server: Server, state: State, most: int) -> int:
    """Ask again, one after the other, for up to most of the texts; returns how many."""
    asked = random.Random(0).sample(sorted(state.answers), min(most, len(state.answers)))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client:
        for key in asked:
            if await answer(client, server, json.loads(key)) != state.answers[key]:
                state.problems.append(f"another text alone: {key[:300]}")
    return len(asked)


async def soak(server: Server, clients: int, seconds: float) -> State:
    state = State()
    start = time.monotonic()
    end = start + seconds
    users = [user(number, server, state, end) for number in range(clients)]
    await asyncio.gather(watch(server, state, start, end), *users)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, nargs=2, help="GGUF files of SmolLM2 and Gemma 3")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--checks", type=int, default=200, help="texts that are asked for again alone")
    parser.add_argument(
        "--cache", choices=["on", "off"], default="on", help="the prefix cache while it soaks"
    )
    args = parser.parse_args()
    models = dict(zip(MODELS, args.models or packs.fetch(), strict=True))
    memory = {"OLLAMAPY_KV_MEMORY": str(KV_MEMORY)}
    off = {"OLLAMAPY_PREFIX_CACHE": "0"}
    with tempfile.TemporaryDirectory() as folder:
        with ours(
            models, Path(folder), args.threads, **memory, **(off if args.cache == "off" else {})
        ) as server:
            state = asyncio.run(soak(server, args.clients, args.seconds))
        with ours(models, Path(folder), args.threads, **off) as server:
            checked = asyncio.run(alone(server, state, args.checks))
    print(f"{state.done} requests, {state.left} hung up; {checked} of {len(state.answers)} texts compared")
    for problem in state.problems[:20]:
        print(f"  {problem}")
    sys.exit(1 if state.problems else 0)


if __name__ == "__main__":
    main()
