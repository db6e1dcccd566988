"""Processes that run Jinja templates, started when first needed and killed when one does not answer."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ollamapy.prompt.errors import TemplateRenderError

_WORKERS = 2
_PATIENCE = 30.0  # seconds for an answer; the worker's own limit of processor time is far below
_MODULE = "ollamapy.prompt.jinja_worker"
_STOPPED = "the model's chat template takes too much time or memory"


class _Worker:
    """A process; used by one thread at a time."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # an interrupt at the terminal is not for it
            env={**os.environ, "PYTHONPATH": path},
        )

    def ask(self, data: bytes) -> bytes:
        """Raises TemplateRenderError when no answer comes; the worker is of no use then."""
        deadline = time.monotonic() + _PATIENCE
        try:
            self._write(len(data).to_bytes(4, "little") + data, deadline)
            length = int.from_bytes(self._read(4, deadline), "little")
            return self._read(length, deadline)
        except OSError:
            raise TemplateRenderError(_STOPPED) from None

    def _wait(self, reading: bool, deadline: float) -> int:
        pipe = self._process.stdout if reading else self._process.stdin
        assert pipe is not None
        descriptor = pipe.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN if reading else select.POLLOUT)
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError("no answer in time")  # an OSError
        return descriptor

    def _write(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._wait(False, deadline), view[: select.PIPE_BUF]) :]

    def _read(self, length: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = os.read(self._wait(True, deadline), min(length - len(parts), 1 << 20))
            if not part:
                raise BrokenPipeError("the process has ended")
            parts += part
        return bytes(parts)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()


class Pool:
    """Workers for the threads that ask."""

    def __init__(self, workers: int = _WORKERS) -> None:
        self._free = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request of jinja_worker; blocks. Raises TemplateRenderError."""
        data = json.dumps(request).encode()
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            try:
                worker = worker or _Worker()
            except OSError as error:
                raise TemplateRenderError(f"cannot run the model's chat template: {error.strerror}") from None
            try:
                answer = json.loads(worker.ask(data))
            except BaseException:
                worker.kill()
                raise
            with self._lock:
                self._idle.append(worker)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """End the processes that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()


POOL = Pool()
atexit.register(POOL.close)
