"""Limits that the environment sets, and what happens beyond them, on real processes and models."""

from __future__ import annotations

import asyncio
import datetime
import json
import resource
import threading
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

import ollamapy.engine.engine
from ollamapy.engine.parts import Parts, prepare
from ollamapy.server.keys import read_keys
from ollamapy.server.settings import Settings
from ollamapy.store.store import Store
from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer, add_gguf, tiny_gguf
from tests.server.test_native import wait_until
from tests.server.test_processes import running

SECONDS = 60.0
ENDLESS: dict[str, Any] = {
    "prompt": "Count to a million: 1, 2,",
    "raw": True,
    "options": {"temperature": 0, "num_predict": 1_000_000, "num_ctx": 8192},
}


def test_no_queue_at_all() -> None:
    """As Ollama has it: 0 is a number, not the default."""
    assert Settings.from_environment({"OLLAMA_MAX_QUEUE": "0"}).max_queue == 0
    assert Settings.from_environment({}).max_queue == 512


def test_the_environment_sets_limits(tmp_path: Path, smollm2_path: Path) -> None:
    """One request at a time, one that waits, and no more; a model stays for OLLAMA_KEEP_ALIVE."""
    add_gguf(Store(tmp_path), smollm2_path, "smollm2")
    limits = {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "1", "OLLAMA_KEEP_ALIVE": "20m"}
    with running(tmp_path, OLLAMAPY_KV_MEMORY=str(400 << 20), **limits) as server:

        async def ask() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
                body = ENDLESS | {"model": "smollm2"}
                async with client.stream("POST", "/api/generate", json=body) as response:
                    assert response.status_code == 200
                    async for _ in response.aiter_lines():
                        first.set()

        def metric(state: str) -> bool:
            line = f'ollamapy_requests_current{{model="smollm2:latest",state="{state}"}} 1.0'
            return line in httpx.get(f"{server.url}/metrics").text

        first = asyncio.Event()

        async def scenario() -> httpx.Response:
            tasks = [asyncio.ensure_future(ask())]
            await asyncio.wait_for(first.wait(), SECONDS)
            tasks.append(asyncio.ensure_future(ask()))
            await asyncio.to_thread(wait_until, lambda: metric("waiting"), SECONDS)
            assert await asyncio.to_thread(metric, "running")
            async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
                refused = await client.post("/api/generate", json={"model": "smollm2", "prompt": "Hi"})
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return refused

        refused = asyncio.run(scenario())
        assert refused.status_code == 503
        message = "server busy, please try again.  maximum pending requests exceeded"
        assert refused.json() == {"error": message}
        wait_until(lambda: "ollamapy_requests_open 0.0" in httpx.get(f"{server.url}/metrics").text, SECONDS)
        client = ollama.Client(server.url, timeout=SECONDS)
        client.generate("smollm2", "Hi", options={"num_predict": 1})
        expires = client.ps().models[0].expires_at
        assert expires is not None
        left = expires - datetime.datetime.now(datetime.timezone.utc)
        assert datetime.timedelta(minutes=18) < left < datetime.timedelta(minutes=20)


def test_out_of_memory_is_an_error_and_others_go_on(
    tmp_path: Path, smollm2_path: Path, gemma3_path: Path
) -> None:
    store = Store(tmp_path)
    add_gguf(store, smollm2_path, "smollm2")
    add_gguf(store, gemma3_path, "gemma3")
    with running(tmp_path, OLLAMAPY_KV_MEMORY=str(64 << 20)) as server:
        client = ollama.Client(server.url, timeout=SECONDS)
        options = {"temperature": 0, "num_predict": 8, "num_ctx": 512}
        want = client.generate("smollm2", "Why is the sky blue?", options=options).response
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        size = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmSize"))
        # The address space ends here, far below what Gemma's weights take.
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size + (100 << 20), resource.RLIM_INFINITY))
        for _ in range(2):
            with pytest.raises(
                ollama.ResponseError, match="'gemma3:latest' does not fit into memory"
            ) as error:
                client.generate("gemma3", "Hi", options=options)
            assert error.value.status_code == 500
            assert client.generate("smollm2", "Why is the sky blue?", options=options).response == want
        resource.prlimit(
            server.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        assert client.generate("gemma3", "Hi", options=options).eval_count == 8


@pytest.mark.parametrize("phase", ["header", "weights"])
def test_a_stream_goes_on_while_another_model_is_loaded(
    phase: str, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load waits for the stream: if the stream waited for the load too, nothing would go on."""
    loading, enough = threading.Event(), threading.Event()

    def wait() -> None:
        loading.set()
        assert enough.wait(SECONDS)

    def prepare_later(*arguments: Any) -> Parts:
        wait()
        return prepare(*arguments)

    read = Parts.read

    def read_later(parts: Parts) -> None:
        wait()
        read(parts)

    client = ollama.Client(server.url, timeout=SECONDS)
    client.generate("gemma3:270m", keep_alive=0)
    body = ENDLESS | {"model": "smollm2:135m"}
    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=SECONDS) as response:
        lines = response.iter_lines()
        next(lines)
        if phase == "header":
            monkeypatch.setattr(ollamapy.engine.engine, "prepare", prepare_later)
        else:
            monkeypatch.setattr(Parts, "read", read_later)
        answers: list[Any] = []
        options = {"num_predict": 1, "num_ctx": 512}
        thread = threading.Thread(
            target=lambda: answers.append(client.generate("gemma3:270m", "Hi", options=options))
        )
        thread.start()
        assert loading.wait(SECONDS)
        for _ in range(20):
            assert "response" in json.loads(next(lines))
        assert not answers
        enough.set()
        thread.join(SECONDS)
        assert answers[0].eval_count == 1


def test_who_is_one_client(tmp_path: Path) -> None:
    """Fairness is between the owners of keys, where keys are asked for, else between connections."""
    for keys in ("", "one,two"):
        engine = FakeEngine()
        server = RunningServer(tmp_path / (keys or "none"), engine, api_keys=read_keys(keys))
        add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
        with httpx.Client(base_url=server.url) as first, httpx.Client(base_url=server.url) as second:
            for connection, key in ((first, "one"), (first, "one"), (second, "one"), (second, "two")):
                body = {"model": "echo", "prompt": "x", "stream": False}
                headers = {"Authorization": f"Bearer {key}"}
                assert connection.post("/api/generate", json=body, headers=headers).status_code == 200
        a, b, c, d = (request.client for request in engine.requests)
        assert a == b
        assert ((a == c), (c == d)) == ((True, False) if keys else (False, True))
        server.close()
