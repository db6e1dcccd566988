"""Servers on the scripted engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer, add_gguf, tiny_gguf


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[RunningServer]:
    """A server with the models `echo`, `other` (no template) and `vectors` (for embeddings)."""
    server = RunningServer(tmp_path / "models", FakeEngine())
    add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
    add_gguf(server.store, tiny_gguf(tmp_path / "b", "other"), "other")
    add_gguf(server.store, tiny_gguf(tmp_path / "c", "vectors", pooled=True), "vectors")
    yield server
    server.close()
