"""Push and pull with Docker's own registry server, between servers of ours that run as processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from ollamapy.store.manifest import Layer, ModelConfig, layer_type
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store
from tests.server.test_native import wait_until
from tests.server.test_processes import running
from tests.store import docker_registry

pytestmark = pytest.mark.skipif(
    docker_registry.PROGRAM is None and not docker_registry.REQUIRED, reason=docker_registry.MISSING
)
GOLDEN = Path(__file__).parents[1] / "golden" / "models" / "tiny-llama.gguf"
BIG = 24_000_000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry.running(tmp_path_factory.mktemp("registry")) as host:
        yield host


def add_model(models: Path, name: str, weights: bytes) -> None:
    store = Store(models)
    with store.blobs.writing():
        digest, size = store.blobs.add([weights])
        layers = [
            Layer(media_type=layer_type("model"), digest=digest, size=size),
            store.add_text("template", "{{ .Prompt }}"),
            store.add_text("params", '{"temperature":0,"num_predict":5}'),
        ]
        config = ModelConfig(model_format="gguf", model_family="llama", model_families=["llama"])
        store.write(ModelName.parse(name), config, layers)


def events(url: str, path: str, model: str) -> list[dict[str, Any]]:
    body = {"model": model, "insecure": True}
    with httpx.stream("POST", url + path, json=body, timeout=120) as response:
        return [json.loads(line) for line in response.iter_lines()]


def statuses(found: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(event.get("status", event)) for event in found))


def test_push_and_pull_elsewhere(tmp_path: Path, registry: str) -> None:
    name = f"{registry}/team/tiny:v1"
    add_model(tmp_path / "a", name, GOLDEN.read_bytes())
    with running(tmp_path / "a", HOME=str(tmp_path)) as first:
        pushed = events(first.url, "/api/push", name)
        assert statuses(pushed)[0] == "retrieving manifest"
        assert statuses(pushed)[-2:] == ["pushing manifest", "success"]
        assert sum("completed" in event for event in pushed) >= 4
        answer = ollama.Client(first.url).generate(name, "hello").response
        again = events(first.url, "/api/push", name)  # the registry has it all
        assert [event["completed"] for event in again if "total" in event] == [
            event["total"] for event in again if "total" in event
        ]
        client = ollama.Client(first.url)
        client.copy(name, f"{registry}/team/other")
        assert client.push(f"{registry}/team/other", insecure=True).status == "success"
        done = subprocess.run(
            [sys.executable, "-m", "ollamapy", "push", f"{registry}/team/other", "--insecure"],
            env={
                **os.environ,
                "OLLAMA_HOST": first.url,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr.splitlines()[-1] == "success"
        assert done.stdout == f"\nYou can find your model at:\n\n\t{registry}/team/other:latest\n"
    with running(tmp_path / "b", HOME=str(tmp_path)) as second:
        client = ollama.Client(second.url)
        progress = [part.status for part in client.pull(name, insecure=True, stream=True)]
        assert progress[-1] == "success"
        assert client.generate(name, "hello").response == answer
        assert client.generate(f"{registry}/TEAM/Tiny:V1", "hello").response == answer  # names have no case
    of = ModelName.parse(name).path
    assert (tmp_path / "a/manifests" / of).read_bytes() == (tmp_path / "b/manifests" / of).read_bytes()
    assert (tmp_path / ".ollama/id_ed25519").exists()


class Counting(ThreadingHTTPServer):
    """Stands before a registry: counts and slows down what it sends of blobs."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.sent = 0
        self.delay = 0.0
        super().__init__(("127.0.0.1", 0), _Forward)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Counting

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        headers = {key: value for key, value in self.headers.items() if key in ("Range", "Accept")}
        url = f"http://{self.server.upstream}{self.path}"
        with httpx.stream("GET", url, headers=headers) as response, contextlib.suppress(OSError):
            self.send_response(response.status_code)
            for key in ("Content-Length", "Content-Range", "Content-Type"):
                if key in response.headers:
                    self.send_header(key, response.headers[key])
            self.end_headers()
            for block in response.iter_raw(1 << 16):
                self.wfile.write(block)
                if "/blobs/" in self.path:
                    self.server.sent += len(block)
                    time.sleep(self.server.delay)


def test_kill_in_the_middle_and_resume(tmp_path: Path, registry: str) -> None:
    weights = random.Random(2).randbytes(BIG)
    add_model(tmp_path / "a", f"{registry}/team/big", weights)
    with running(tmp_path / "a", HOME=str(tmp_path)) as first:
        assert statuses(events(first.url, "/api/push", f"{registry}/team/big"))[-1] == "success"
    counting = Counting(registry)
    name = f"{counting.host}/team/big"
    models = tmp_path / "b"
    counting.delay = 0.005
    with running(models, HOME=str(tmp_path)) as server:

        def work() -> None:
            with contextlib.suppress(httpx.TransportError):
                events(server.url, "/api/pull", name)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: counting.sent > BIG // 3, 60)
        server.process.send_signal(signal.SIGKILL)
        thread.join()
    assert Store(models).list() == []
    assert list((models / "blobs").glob("*-partial"))
    counting.delay = 0.0
    with running(models, HOME=str(tmp_path)) as server:
        assert statuses(events(server.url, "/api/pull", name))[-1] == "success"
    counting.shutdown()
    assert Store(models).get(ModelName.parse(name)).model_path.read_bytes() == weights
    assert list((models / "blobs").glob("*partial*")) == []
    # What lay in the sockets of the killed server, and the last megabyte whose note was not written, come twice.
    assert counting.sent < 1.1 * BIG + (4 << 20)


def test_a_full_disk(tmp_path: Path, registry: str) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle of a blob."""
    name = f"{registry}/team/full"
    weights = random.Random(3).randbytes(3_000_000)
    add_model(tmp_path / "a", name, weights)
    with running(tmp_path / "a", HOME=str(tmp_path)) as first:
        assert statuses(events(first.url, "/api/push", name))[-1] == "success"
    models = tmp_path / "b"
    add_model(models, name, GOLDEN.read_bytes())
    with running(models, HOME=str(tmp_path)) as server:
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        last = events(server.url, "/api/pull", name)[-1]
        assert "File too large" in last["error"]
        client = ollama.Client(server.url)
        assert client.generate(name, "hello").eval_count  # the old model is intact and the server serves
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        assert statuses(events(server.url, "/api/pull", name))[-1] == "success"
    assert Store(models).get(ModelName.parse(name)).model_path.read_bytes() == weights


def test_what_the_registry_does_not_have(tmp_path: Path, registry: str) -> None:
    with running(tmp_path / "a", HOME=str(tmp_path)) as server:
        assert events(server.url, "/api/pull", f"{registry}/team/none") == [
            {"status": "pulling manifest"},
            {"error": "pull model manifest: file does not exist"},
        ]
