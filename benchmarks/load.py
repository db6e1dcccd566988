"""Loading a model: from the request to its first token in a running server, beside exec to first token of
llama-server, interleaved; and what the load adds to the server's resident memory.

    LLAMA_SERVER=.../llama-server python -m benchmarks.load [--model PATH] [--rounds 7] [--threads N] [--cold]

Both read the same file, out of the page cache, or with --cold after it was thrown out of it. The model is unloaded
after each answer (keep_alive 0). Memory is measured on a server's first load, peak included, and again after the
unload.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ollamapy._core import Device, GGUFFile
from ollamapy.store.importing import model_layers
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store

from . import packs
from .peers import program
from .servers import START_SECONDS, free_port

PROMPT = "The opposite of hot is"
MIB = 1 << 20


@contextlib.contextmanager
def running(
    command: list[str], port: int, health: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers 200 at health; it is ended with the block."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} did not start")
            with contextlib.suppress(OSError, HTTPException):
                connection = HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", health)
                if connection.getresponse().status == 200:
                    break
            time.sleep(0.002)
        yield process
    finally:
        process.kill()
        process.wait()


def first_line(port: int, path: str, body: dict[str, Any], prefix: bytes = b"") -> dict[str, Any]:
    """The first JSON line of a streamed answer; the rest is read too, so that the answer ends."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    line = response.readline()
    if response.status != 200 or not line.startswith(prefix):
        raise RuntimeError(f"{path}: {response.status} {line!r}")
    return dict(json.loads(line.removeprefix(prefix)), seconds=time.perf_counter(), rest=response.read())


def memory(pid: int, name: str) -> int:
    """Bytes that /proc says: VmRSS now, VmHWM at most since the last reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")


class Ours:
    """`ollamapy serve` on a store that holds the model alone."""

    def __init__(self, model: Path, scratch: Path, threads: int) -> None:
        self.root, self.threads = scratch / "models", threads
        store = Store(self.root)
        with store.blobs.writing():
            with model.open("rb") as file:
                digest, _ = store.blobs.add(iter(lambda: file.read(MIB), b""))
            imported = model_layers(store, digest)
            store.write(ModelName.parse("measured"), imported.config, imported.layers)
        self.blob = store.blobs.existing(digest)

    @contextlib.contextmanager
    def server(self) -> Iterator[tuple[int, int]]:
        """(port, process id)"""
        port = free_port()
        command = [sys.executable, "-m", "ollamapy", "serve"]
        environment = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(self.root)}
        with running(command, port, "/", OLLAMAPY_THREADS=str(self.threads), **environment) as process:
            yield port, process.pid

    def first_token(self, port: int) -> float:
        """Seconds from the request to its first token, of a model that is not loaded."""
        start = time.perf_counter()
        options = {"num_predict": 2, "temperature": 0}
        body = {"model": "measured", "prompt": PROMPT, "raw": True, "options": options, "keep_alive": 0}
        seconds = first_line(port, "/api/generate", body)["seconds"] - start
        while self._loaded(port):
            time.sleep(0.01)
        return float(seconds)

    def _loaded(self, port: int) -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        connection.request("GET", "/api/ps")
        return bool(json.loads(connection.getresponse().read())["models"])


def llama_server(program: str, model: Path, threads: int) -> float:
    """Seconds from exec to the first token."""
    port = free_port()
    start = time.perf_counter()
    command = [program, "-m", str(model), "--port", str(port), "-t", str(threads), "-c", "4096", "-ngl", "0"]
    with running(command, port, "/health"):
        body = {"prompt": PROMPT, "n_predict": 2, "stream": True, "temperature": 0}
        return float(first_line(port, "/completion", body, b"data: ")["seconds"] - start)


def prepare(path: Path, cold: bool) -> None:
    """Bring the file into the page cache, or throw it out."""
    if not cold:
        with path.open("rb") as file:
            while file.read(MIB):
                pass
        return
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(model: Path, rounds: int, threads: int, cold: bool) -> None:
    llama = program("LLAMA_SERVER")
    with tempfile.TemporaryDirectory(dir=packs.FOLDER.parent) as scratch:
        ours = Ours(model, Path(scratch), threads)
        file = GGUFFile(str(ours.blob))
        tensors = sum(tensor.nbytes for tensor in file.tensors())
        with ours.server() as (port, pid):
            prepare(ours.blob, cold)
            before = memory(pid, "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            first = ours.first_token(port)
            peak = memory(pid, "VmHWM") - before
            after = memory(pid, "VmRSS") - before
            mine, theirs = [first], []
            for _ in range(rounds):
                prepare(ours.blob, cold)
                mine.append(ours.first_token(port))
                if llama:
                    prepare(ours.blob, cold)
                    theirs.append(llama_server(llama, ours.blob, threads))
            left = memory(pid, "VmRSS") - before
    limit = 1.15 * tensors + 32 * MIB
    print(f"\n{model.name}, {threads} threads, page cache {'cold' if cold else 'warm'}, {rounds} rounds")
    print(
        f"  request to first token {statistics.median(mine) * 1e3:7.0f} ms (the first one {first * 1e3:.0f})"
    )
    if theirs:
        ratio = statistics.median(a / b for a, b in zip(mine[1:], theirs, strict=True))
        spread = ", ".join(
            f"{f(a / b for a, b in zip(mine[1:], theirs, strict=True)):.2f}" for f in (min, max)
        )
        print(
            f"  llama-server from exec {statistics.median(theirs) * 1e3:7.0f} ms, ratio {ratio:.2f} ({spread})"
        )
    else:
        print("  llama-server: LLAMA_SERVER names no program, missing")
    figures = (tensors, peak, limit, after, left)
    names = ("tensors", "peak growth", "limit", "after the unload", f"after {rounds + 1} loads")
    print("  memory, MiB: " + ", ".join(f"{n} {v / MIB:.1f}" for n, v in zip(names, figures, strict=True)))
    if peak > limit:
        print("  OVER THE LIMIT")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    packs.FOLDER.parent.mkdir(parents=True, exist_ok=True)
    for model in args.model or packs.fetch():
        measure(model, args.rounds, args.threads or Device().threads, args.cold)


if __name__ == "__main__":
    main()
