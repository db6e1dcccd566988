"""Docker's own registry server, from Debian's package docker-registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

PROGRAM = shutil.which("docker-registry")
MISSING = (
    "the tests against a real registry DID NOT RUN: docker-registry is not installed "
    "(Debian or Ubuntu: apt-get install docker-registry)"
)
REQUIRED = os.environ.get("OLLAMAPY_REQUIRE_REGISTRY", "") not in ("", "0")

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """A registry that keeps its content below folder; yields its host:port."""
    assert PROGRAM is not None, MISSING
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "content", port=port))
    process = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/v2/").status_code == 200:
                    break
            assert process.poll() is None, "the registry has ended"
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
