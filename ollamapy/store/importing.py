"""From a GGUF's bytes to a listed model: its blob, what its header says, and the layers that go with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ollamapy.store.facts import facts_of
from ollamapy.store.manifest import Layer, ModelConfig, layer_type
from ollamapy.store.packs import Pack
from ollamapy.store.store import Store

ByteCount = Callable[[int], None]
"""bytes written so far"""


def counted(chunks: Iterable[bytes], progress: ByteCount | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress:
            progress(done)


def model_layers(store: Store, digest: str) -> tuple[ModelConfig, list[Layer]]:
    """The configuration and layers of a model whose GGUF is a blob of the store.

    Call inside blobs.writing(). Raises GGUFError for a file that is no GGUF.
    """
    path = store.blobs.existing(digest)
    facts = facts_of(path)
    config = ModelConfig(
        model_format="gguf",
        model_family=facts.architecture,
        model_families=[facts.architecture],
        model_type=facts.parameter_size,
        file_type=facts.file_type,
    )
    return config, [Layer(media_type=layer_type("model"), digest=digest, size=path.stat().st_size)]


def import_pack(store: Store, pack: Pack, scratch: Path, progress: ByteCount | None = None) -> str:
    """Write a pack's GGUF as a blob, verified; returns its digest. Raises PackError."""
    digest, _ = store.blobs.add(counted(pack.gguf(scratch), progress))
    return digest


def add_parameters(store: Store, parameters: dict[str, object]) -> Layer:
    """A layer of default options."""
    return store.add_text("params", json.dumps(parameters))
