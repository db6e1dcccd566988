"""Servers under test, each a process of its own that speaks OpenAI's dialect.

LLAMA_SERVER in the environment names llama.cpp's server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollamapy.store.importing import model_layers
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store

START_SECONDS = 120.0
MODEL = "bench"


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    pid: int

    @property
    def resident_bytes(self) -> int:
        """Anonymous memory that the process holds: files that it reads do not count."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], port: int, environment: Mapping[str, str], health: str
) -> Iterator[Server]:
    """A server process, from when it answers 200 at the path health until the context ends."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{url}{health}", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} does not start")
            time.sleep(0.2)
        yield Server(name, url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def add_model(store: Store, path: Path, name: str) -> None:
    """List a GGUF file in a store."""
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    store.blobs.folder.mkdir(parents=True, exist_ok=True)
    target = store.blobs.path(digest)
    if not target.exists():
        target.write_bytes(path.read_bytes())
    with store.blobs.writing():
        imported = model_layers(store, digest)
        store.write(ModelName.parse(name), imported.config, imported.layers)


def ours(
    models: Mapping[str, Path], folder: Path, threads: int, **settings: str
) -> contextlib.AbstractContextManager[Server]:
    """OllamaPy with models by name; settings are further environment variables."""
    store = Store(folder)
    for name, path in models.items():
        add_model(store, path, name)
    port = free_port()
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder),
        "OLLAMAPY_THREADS": str(threads),
        **settings,
    }
    return running("ollamapy", [sys.executable, "-m", "ollamapy", "serve"], port, environment, "/")


def llama_server(
    program: str, model: Path, threads: int, slots: int, context: int, *options: str
) -> contextlib.AbstractContextManager[Server]:
    """llama.cpp's server with so many slots of so much context each, and further options of its own.

    Continuous batching, flash attention and the reuse of prompts by slots are on unless they are turned off.
    """
    port = free_port()
    command = [program, "-m", str(model), "--port", str(port), "-t", str(threads), "-np", str(slots)]
    command += ["-c", str(slots * context), "-ngl", "0", "--no-webui", *options]
    return running("llama-server", command, port, {}, "/health")  # its /v1/models answers while it loads
