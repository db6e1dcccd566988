"""A server on a disk that stops to answer in the middle of a file: its real reads block in the system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from ollamapy._core import GGUFFile
from ollamapy.store.store import Store
from tests.server.harness import add_gguf
from tests.server.test_native import wait_until
from tests.server.test_processes import Process, running

SOURCE = Path(__file__).with_name("slow_disk.c")
TINY = Path(__file__).parents[1] / "golden" / "models" / "tiny-gemma3.gguf"
SECONDS = 60.0


class Disk:
    """Where the blob of the model `stuck` lies, behind its header, and what of it can be read now."""

    def __init__(self, folder: Path, file: Path, models: Path) -> None:
        library = folder / "slow_disk.so"
        compiler = next(name for name in ("cc", "gcc", "clang", "g++") if shutil.which(name))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        store = Store(models)
        add_gguf(store, TINY, "other")
        add_gguf(store, file, "stuck")
        blob = next(model for model in store.list() if model.name.short == "stuck:latest").model_path
        first = min(tensor.offset for tensor in GGUFFile(blob).tensors())
        self.gate = folder / "gate"
        self.writers: list[int] = []
        self.environment = {
            "LD_PRELOAD": str(library),
            "SLOW_FILE": str(blob.resolve()),
            "SLOW_FROM": str(first + (8 << 20)),
            "SLOW_LEAST": "1",
            "SLOW_GATE": str(self.gate),
        }

    def stop(self) -> None:
        os.mkfifo(self.gate)

    def answer(self) -> None:
        """Also to those who wait already, or are about to."""
        self.writers.append(os.open(self.gate, os.O_RDWR))
        self.gate.unlink()


@pytest.fixture
def disk(tmp_path: Path, smollm2_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, smollm2_path, tmp_path / "models")
    yield made
    if made.gate.exists():
        made.answer()
    for writer in made.writers:
        os.close(writer)


def listed(client: ollama.Client) -> list[str | None]:
    return [model.model for model in client.ps().models]


def metric(server: Process, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def test_a_disk_that_does_not_answer(disk: Disk, tmp_path: Path) -> None:
    options = {"num_predict": 3, "num_ctx": 512}
    with running(tmp_path / "models", OLLAMA_LOAD_TIMEOUT="1s", **disk.environment) as server:
        client = ollama.Client(server.url, timeout=SECONDS)
        disk.stop()
        with pytest.raises(ollama.ResponseError, match="loading stuck:latest has made no progress") as error:
            client.generate("stuck", "Hi", options=options)
        assert error.value.status_code == 500
        assert client.generate("other", "a", options=options).eval_count == 3
        for _ in range(20):  # as many threads as would fill every pool
            with pytest.raises(ollama.ResponseError, match="no progress"):
                client.generate("stuck", "Hi", options=options)
        assert listed(client) == ["other:latest"]
        disk.answer()

        def answers() -> bool:
            try:
                return client.generate("stuck", "Hi", options=options).eval_count == 3
            except ollama.ResponseError:
                return False

        wait_until(answers, SECONDS)
        assert sorted(filter(None, listed(client))) == ["other:latest", "stuck:latest"]


def status(server: Process, name: str) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize("least", ["1", "65536"])  # the first vector that is looked at, the first matrix
def test_who_leaves_takes_the_load_along(least: str, disk: Disk, tmp_path: Path) -> None:
    """It goes when the disk answers: until then it holds up no other model, nor the end of the server."""
    with running(tmp_path / "models", **disk.environment | {"SLOW_LEAST": least}) as server:
        client = ollama.Client(server.url, timeout=SECONDS)

        def load_and_leave() -> None:
            disk.stop()
            with pytest.raises(httpx.ReadTimeout):
                ollama.Client(server.url, timeout=1.0).generate("stuck", "Hi", keep_alive=-1)
            wait_until(lambda: metric(server, "ollamapy_requests_open") == 0, SECONDS)
            assert client.generate("other", "a", options={"num_predict": 3}).eval_count == 3

        load_and_leave()
        disk.answer()
        assert server.process.stderr is not None
        too_long = threading.Timer(SECONDS, server.process.kill)
        too_long.start()
        assert any("nobody waits for stuck:latest any more" in line for line in server.process.stderr)
        too_long.cancel()
        # Its weights are 85 MB.
        wait_until(lambda: status(server, "RssAnon") < 100 << 10, SECONDS)
        assert listed(client) == ["other:latest"]
        load_and_leave()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
