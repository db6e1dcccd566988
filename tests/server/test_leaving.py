"""Clients that hang up, on real sockets and a real model: their pages, places and sockets come back."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollamapy.engine.engine import Engine
from ollamapy.engine.parts import Parts
from tests.server.harness import RunningServer, add_gguf
from tests.server.test_metrics import values
from tests.server.test_native import wait_until

MODEL = "smollm2:135m"
LABEL = f'model="{MODEL}"'
LONG = "The quick brown fox jumps over the lazy dog. " * 700  # 7,000 tokens
SECONDS = 60.0  # that a busy machine may take for a few steps


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[RunningServer]:
    """A server that answers one request at a time."""
    engine = Engine(max_sequences=1, kv_memory=400 << 20)
    server = RunningServer(tmp_path_factory.mktemp("single"), engine)
    add_gguf(server.store, smollm2_path, MODEL)
    yield server
    server.close()


def ask(
    server: RunningServer, prompt: str, stream: bool = True, path: str = "/api/generate"
) -> socket.socket:
    """A connection on which a request has been sent that has no end: drawn at random, counting may stop anywhere."""
    body: dict[str, Any] = {"model": MODEL, "stream": stream}
    if path == "/api/generate":
        options = {"num_predict": 100_000, "num_ctx": 8192, "temperature": 0}
        body |= {"prompt": prompt, "raw": True, "options": options}
    else:
        body |= {"messages": [{"role": "user", "content": prompt}], "max_tokens": 100_000, "temperature": 0}
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def current(server: RunningServer, state: str) -> float:
    return values(server).get(f'ollamapy_requests_current{{{LABEL},state="{state}"}}', 0.0)


def used(server: RunningServer) -> float:
    return values(server).get(f'ollamapy_kv_pages{{group="0",{LABEL},state="used"}}', 0.0)


def left(server: RunningServer) -> float:
    return values(server).get('ollamapy_requests_total{outcome="left"}', 0.0)


def sockets() -> int:
    """Open descriptors of this process: the server's ends and ours."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture
def checked(single: RunningServer) -> Iterator[RunningServer]:
    """The server, which has to be as it was when a test has left it."""
    httpx.post(f"{single.url}/api/generate", json={"model": MODEL}, timeout=SECONDS)  # loads it
    before = sockets()
    yield single

    def quiet() -> bool:
        requests = [current(single, "running"), current(single, "waiting")]
        return [*requests, used(single), values(single)["ollamapy_requests_open"]] == [0, 0, 0, 0]

    wait_until(quiet, SECONDS)
    steps = values(single)["ollamapy_step_seconds_count"]
    time.sleep(0.2)
    assert values(single)["ollamapy_step_seconds_count"] <= steps + 2  # those that were in flight
    wait_until(lambda: sockets() <= before, SECONDS)
    body = {"model": MODEL, "prompt": "Why?", "stream": False, "options": {"num_predict": 2}}
    assert httpx.post(f"{single.url}/api/generate", json=body, timeout=SECONDS).json()["eval_count"] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_in_the_queue(checked: RunningServer, stream: bool) -> None:
    with ask(checked, "Count to a million: 1, 2,") as first:
        first.recv(1)
        before = left(checked)
        with ask(checked, LONG, stream):
            wait_until(lambda: current(checked, "waiting") == 1, SECONDS)
        wait_until(lambda: current(checked, "waiting") == 0, SECONDS)
        assert left(checked) == before + 1
        assert current(checked, "running") == 1
        assert first.recv(1)


def test_while_the_model_is_loaded(checked: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx.post(f"{checked.url}/api/generate", json={"model": MODEL, "keep_alive": 0}, timeout=SECONDS)
    residency = checked.service.residency
    wait_until(lambda: not residency.keys(), SECONDS)
    loading, enough = threading.Event(), threading.Event()
    read = Parts.read

    def read_later(parts: Parts) -> None:
        loading.set()
        assert enough.wait(SECONDS)
        read(parts)

    monkeypatch.setattr(Parts, "read", read_later)
    with ask(checked, "Count to a million: 1, 2,"):
        assert loading.wait(SECONDS)
        assert values(checked)["ollamapy_requests_open"] == 1
    wait_until(lambda: values(checked)["ollamapy_requests_open"] == 0, SECONDS)
    enough.set()
    wait_until(lambda: not residency.keys(), SECONDS)  # the model goes: nobody waits for it any more


@pytest.mark.parametrize(
    ("path", "stream"), [("/api/generate", True), ("/api/generate", False), ("/v1/chat/completions", True)]
)
def test_while_the_prompt_is_read(checked: RunningServer, path: str, stream: bool) -> None:
    before = values(checked)
    prompt = f"{path} {stream} {LONG}"  # nothing of it has been computed
    with ask(checked, prompt, stream, path):
        wait_until(lambda: used(checked) > 0, SECONDS)  # of the 200 that it needs
        assert current(checked, "running") == 1
    wait_until(lambda: used(checked) == 0, SECONDS)
    after = values(checked)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('ollamapy_requests_total{outcome="left"}') == 1
    assert grown('ollamapy_tokens_total{kind="completion"}') == 0  # its first token had not come


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
def test_in_the_middle_of_the_answer(checked: RunningServer, path: str) -> None:
    before = left(checked)
    with ask(checked, "Count to a million: 1, 2,", path=path) as connection:
        got = b""
        while got.count(b"\n") < 12:
            got += connection.recv(4096)
        assert used(checked) > 0
    wait_until(lambda: left(checked) == before + 1, SECONDS)


def test_at_once(checked: RunningServer) -> None:
    for i in range(30):
        ask(checked, f"{i} {LONG[:200]}", stream=i % 2 == 0).close()


def test_many_in_all_places_at_once(checked: RunningServer) -> None:
    connections = [ask(checked, f"{i} {LONG[: 20 * i * i]}", stream=i % 2 == 0) for i in range(12)]
    wait_until(lambda: current(checked, "waiting") == 11, SECONDS)
    for connection in connections:
        connection.close()
