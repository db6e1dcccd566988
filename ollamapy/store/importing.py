"""From a GGUF's bytes to a listed model: its blob, what its header says, and the layers that go with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ollamapy.prompt.well_known import recognize
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


@dataclass
class Imported:
    """A GGUF of the store on its way to a model."""

    config: ModelConfig
    layers: list[Layer]
    recognized: str = ""  # the name of the well-known chat template that it has


def model_layers(store: Store, digest: str) -> Imported:
    """The configuration and layers of a model whose GGUF is a blob of the store.

    A well-known chat template becomes a TEMPLATE with its stop parameters. Call inside blobs.writing().
    Raises GGUFError for a file that is no GGUF.
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
    imported = Imported(
        config, [Layer(media_type=layer_type("model"), digest=digest, size=path.stat().st_size)]
    )
    known = recognize(facts.chat_template) if facts.chat_template else None
    if known is not None:
        imported.recognized = known.name
        imported.layers.append(store.add_text("template", known.template))
        imported.layers.append(store.add_text("params", json.dumps({"stop": known.stop})))
    return imported


def import_pack(store: Store, pack: Pack, scratch: Path, progress: ByteCount | None = None) -> str:
    """Write a pack's GGUF as a blob, verified; returns its digest. Raises PackError."""
    digest, _ = store.blobs.add(counted(pack.gguf(scratch), progress))
    return digest
