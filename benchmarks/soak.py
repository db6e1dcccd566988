"""Many clients for a long time: `python -m benchmarks.soak [--seconds 600] [--clients 32]`.

Clients of every kind ask two models for texts, conversations and vectors at once, a prefix cache there and then, for
a fifth of the time, none; a third of them hang up, in the queue, while their prompt is read, in the middle of the
answer, or right after a whole request. KV pages are so few that requests give way to each other and cached texts go.

Checked: no request fails; memory and descriptors do not grow after the first minute; when all have left, nothing is
running, waiting or held; every greedy and every seeded text is the one that the same request gets alone on a fresh
server without prefix cache; requests did give way, and pages were shared. Prints a line every ten seconds and exits
with 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
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
KV_MEMORY = 50 << 20  # bytes of KV pages of each model: enough for the longest request, not for many
LONGEST = 2048  # tokens of context
WITHOUT_CACHE = 0.2  # of the time

Body = dict[str, Any]


@dataclass
class State:
    """What has happened so far."""

    answers: dict[str, str] = field(default_factory=dict)  # request (JSON) → text
    done: int = 0
    left: int = 0
    preempted: int = 0  # requests that gave way to others
    problems: list[str] = field(default_factory=list)


def text(dice: random.Random, words: int) -> str:
    choice = ("light", "colour", "prism", "ray", "glass", "water", "angle", "image", "lens", "mirror")
    return " ".join(dice.choice(choice) for _ in range(words))


def request(dice: random.Random) -> Body:
    """A text of a kind that repeats: greedy or seeded, short or longer than Gemma's window, shared or not."""
    model = dice.choice(MODELS)
    prefix = text(
        random.Random(dice.randrange(PREFIXES)), dice.choice([5, 60, 640 if model == "gemma3" else 300])
    )
    prompt = f"{prefix} {text(dice, dice.choice([0, 3, 10]))}".strip()
    options: Body = {
        "num_predict": dice.choice([4, 16, 80, 160]),
        "num_ctx": dice.choice([256, 1024, LONGEST]),
    }
    options |= {"temperature": 0} if dice.random() < 0.5 else {"seed": dice.randrange(3), "temperature": 0.9}
    body = {"model": model, "stream": True, "options": options}
    if dice.random() < 0.3:
        return body | {"messages": [{"role": "user", "content": prompt}]}
    return body | {"prompt": prompt, "raw": True}


def next_turn(body: Body, answer: str, dice: random.Random) -> Body:
    """The conversation goes on."""
    said = [{"role": "assistant", "content": answer}, {"role": "user", "content": text(dice, 5)}]
    return body | {"messages": [*body["messages"], *said]}


async def answer(
    client: aiohttp.ClientSession, server: Server, body: Body, most: int = 1 << 30
) -> str | None:
    """The whole text; None when the client leaves after most lines."""
    parts: list[str] = []
    path = "chat" if "messages" in body else "generate"
    async with client.post(f"{server.url}/api/{path}", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {await response.text()}")
        if most == 0:
            return None
        async for line in response.content:
            event = json.loads(line)
            if "error" in event:
                raise RuntimeError(event["error"])
            parts.append(event["message"]["content"] if path == "chat" else event["response"])
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
        following: Body | None = None
        while time.monotonic() < end:
            body, following = following or request(dice), None
            try:
                if number % 8 == 7 and "prompt" in body:
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
                    if found is not None and len(body.get("messages", ())) in (1, 3):
                        following = next_turn(body, found, dice)
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


async def figures(client: aiohttp.ClientSession, server: Server) -> Counter[str]:
    """What the server counts, summed over models and groups: names with the state, kind or outcome behind them."""
    found: Counter[str] = Counter()
    async with client.get(f"{server.url}/metrics") as response:
        for line in (await response.text()).splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("ollamapy_") and "_bucket" not in name:
                labels = [part for part in name.partition("{")[2].strip("}").split(",") if part]
                chosen = [
                    x.partition("=")[2].strip('"') for x in labels if not x.startswith(("model", "group"))
                ]
                found[" ".join([name.partition("{")[0], *chosen])] += int(float(value))
    return found


async def aftermath(server: Server, state: State, cache: bool) -> None:
    """All have left: nothing is held any more, and what was meant to happen has happened."""
    busy = ("ollamapy_requests_open", "ollamapy_requests_current running", "ollamapy_kv_pages used")
    async with aiohttp.ClientSession() as client:
        for _ in range(100):
            found = await figures(client, server)
            if not any(found[name] for name in busy):
                break
            await asyncio.sleep(0.1)
    state.problems += [f"{name} is {found[name]} when all have left" for name in busy if found[name]]
    preempted, shared = found["ollamapy_preemptions_total"], found["ollamapy_tokens_total cached"]
    failed = found["ollamapy_requests_total failed"]
    print(
        f"{found['ollamapy_tokens_total prompt']} prompt tokens, {shared} of them cached, "
        f"{found['ollamapy_tokens_total completion']} drawn; {preempted} requests gave way, {failed} failed"
    )
    if failed:
        state.problems.append(f"{failed} requests failed in the engine")
    state.preempted += preempted
    if bool(shared) != cache:
        state.problems.append(f"{shared} tokens were cached")


async def alone(server: Server, state: State, most: int) -> int:
    """Ask again, one after the other, for up to most of the texts; returns how many."""
    asked = random.Random(0).sample(sorted(state.answers), min(most, len(state.answers)))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client:
        for key in asked:
            if await answer(client, server, json.loads(key)) != state.answers[key]:
                state.problems.append(f"another text alone: {key[:300]}")
    return len(asked)


async def soak(server: Server, state: State, clients: int, seconds: float, cache: bool) -> None:
    print(f"{clients} clients for {seconds:.0f} s, prefix cache {'on' if cache else 'off'}")
    start = time.monotonic()
    end = start + seconds
    users = [user(number, server, state, end) for number in range(clients)]
    await asyncio.gather(watch(server, state, start, end), *users)
    await aftermath(server, state, cache)


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
    args = parser.parse_args()
    models = dict(zip(MODELS, args.models or packs.fetch(), strict=True))
    state = State()
    with tempfile.TemporaryDirectory() as folder:

        def server(cache: bool) -> Any:
            environment = {"OLLAMAPY_KV_MEMORY": str(KV_MEMORY), "OLLAMAPY_PREFIX_CACHE": str(int(cache))}
            return ours(models, Path(folder), args.threads, **environment)

        for cache, share in ((True, 1 - WITHOUT_CACHE), (False, WITHOUT_CACHE)):
            with server(cache) as running:
                asyncio.run(soak(running, state, args.clients, share * args.seconds, cache))
        with server(False) as running:
            checked = asyncio.run(alone(running, state, args.checks))
    if not state.preempted:
        state.problems.append("no request gave way: the KV pages were too many")
    print(f"{state.done} requests, {state.left} hung up; {checked} of {len(state.answers)} texts compared")
    for problem in state.problems[:20]:
        print(f"  {problem}")
    sys.exit(1 if state.problems else 0)


if __name__ == "__main__":
    main()
