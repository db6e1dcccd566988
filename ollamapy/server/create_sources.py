"""What a new model begins with: the layers of another model, of uploaded files, or of a GGUF on the server's disk.

Everything here blocks and is called inside blobs.writing().
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ollamapy._core import GGUFFile
from ollamapy.models.lora import check_adapter
from ollamapy.server.errors import ServerError
from ollamapy.server.requests import CreateRequest
from ollamapy.server.streaming import Event
from ollamapy.store.convert import convert_model
from ollamapy.store.errors import BlobNotFoundError, InvalidDigestError
from ollamapy.store.importing import model_layers
from ollamapy.store.manifest import Layer, ModelConfig, layer_type
from ollamapy.store.names import ModelName, parse_digest
from ollamapy.store.quantize import QuantizeError, file_type, quantized
from ollamapy.store.store import Store
from ollamapy.types import RequestError, UnsupportedModelError

Report = Callable[[str], None]

_BLOCK = 4 << 20  # bytes
_MAGIC = b"GGUF"


@dataclass
class Source:
    """Configuration and layers, and what is said of each layer when it is listed."""

    config: ModelConfig
    layers: list[Layer]
    imported: bool = False  # whether the weights came as files
    notes: dict[str, str] = field(default_factory=dict)  # by digest: a line in place of the usual one


def is_server_path(text: str) -> bool:
    """Whether FROM names a GGUF on the server's disk."""
    return text.startswith(("/", "~/")) and text.lower().endswith(".gguf")


def read_source(store: Store, asked: CreateRequest, report: Report) -> Source:
    """Raises RequestError, GGUFError for a file that is no GGUF."""
    if is_server_path(asked.from_name):
        report("copying GGUF")
        digest, _ = store.blobs.add(_file_blocks(Path(asked.from_name).expanduser()))
        report("parsing GGUF")
        return _gguf_source(store, digest)
    if asked.from_name:
        return _model_source(store, asked.from_name)
    assert asked.files is not None
    if _kind(store, asked.files) == "safetensors":
        report("converting model")
        digest, _ = store.blobs.add(convert_model(blob_files(store, asked.files)))
        return _gguf_source(store, digest)
    if len(asked.files) != 1:
        raise RequestError("a model of several GGUF files is not supported by this server")
    report("parsing GGUF")
    return _gguf_source(store, _gguf(store, next(iter(asked.files.values()))))


def _model_source(store: Store, name: str) -> Source:
    stored = store.get(ModelName.parse_reference(name))
    layers = [
        msgspec.structs.replace(layer, from_name=stored.name.short) if layer.kind == "model" else layer
        for layer in stored.manifest.layers
    ]
    return Source(msgspec.structs.replace(stored.config), layers)


def _gguf_source(store: Store, digest: str) -> Source:
    """Raises RequestError, GGUFError."""
    if GGUFFile(str(store.blobs.existing(digest))).get("general.type") == "adapter":
        raise RequestError("the file is an adapter: it needs a model in FROM")
    imported = model_layers(store, digest)
    notes = {}
    for layer in imported.layers:
        if layer.kind == "template" and imported.recognized:
            notes[layer.digest] = f"using autodetected template {imported.recognized}"
    return Source(imported.config, imported.layers, True, notes)


def _kind(store: Store, files: Mapping[str, str]) -> str:
    """safetensors or gguf, by the names of the files, else by how they begin. Raises RequestError."""
    for kind in ("safetensors", "gguf"):
        if any(name.endswith(f".{kind}") for name in files):
            return kind
    if any(is_gguf(store.blobs.existing(_existing(store, digest))) for digest in files.values()):
        return "gguf"
    raise RequestError("unknown type")


def _gguf(store: Store, text: str) -> str:
    """The digest of an uploaded GGUF. Raises RequestError for another file, ServerError for none."""
    digest = _existing(store, text)
    if not is_gguf(store.blobs.existing(digest)):
        raise RequestError("supplied file was not in GGUF format")
    return digest


def _existing(store: Store, text: str) -> str:
    """The digest of an uploaded file. Raises ServerError for a malformed one, or one without its blob."""
    try:
        digest = parse_digest(text)
        store.blobs.existing(digest)
    except (InvalidDigestError, BlobNotFoundError) as error:
        raise ServerError(str(error)) from None
    return digest


def blob_files(store: Store, files: Mapping[str, str]) -> dict[str, Path]:
    """Uploaded files by their path in the model's folder. Raises ServerError."""
    return {name: store.blobs.existing(_existing(store, digest)) for name, digest in files.items()}


def is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _file_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise RequestError(f"{path} is no GGUF file")
            file.seek(0)
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None


def read_adapter(store: Store, files: Mapping[str, str], source: Source, report: Report) -> Layer:
    """The layer of an adapter that the model can have. Raises RequestError: whatever is wrong with it is the
    client's."""
    try:
        return _adapter(store, files, source, report)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _adapter(store: Store, files: Mapping[str, str], source: Source, report: Report) -> Layer:
    if _kind(store, files) == "safetensors":
        raise RequestError("adapters in safetensors format are not supported: convert the adapter to GGUF")
    if len(files) > 1 or any(layer.kind == "adapter" for layer in source.layers):
        raise RequestError("only one adapter is currently supported")
    report("parsing GGUF")
    digest = _gguf(store, next(iter(files.values())))
    path = store.blobs.existing(digest)
    base = next((layer.digest for layer in source.layers if layer.kind == "model"), "")
    try:
        check_adapter(str(path), str(store.blobs.existing(base)))
    except UnsupportedModelError as error:
        raise RequestError(str(error)) from None
    return Layer(media_type=layer_type("adapter"), digest=digest, size=path.stat().st_size)


def quantize_source(store: Store, source: Source, target: str, progress: Callable[[Event], None]) -> Source:
    """The same model with its weights in another type. Raises ServerError, as Ollama's 500."""
    layer = next((layer for layer in source.layers if layer.kind == "model"), None)
    if layer is None:
        raise ServerError("there are no weights to quantize")
    path = store.blobs.existing(layer.digest)
    status: Event = {"digest": layer.digest}

    def report(completed: int, total: int) -> None:
        progress({**status, "total": total, "completed": completed})

    try:
        kind = file_type(target)
        status["status"] = f"quantizing {source.config.file_type} model to {kind}"
        digest, size = store.blobs.add(quantized(path, kind, progress=report))
    except QuantizeError as error:
        raise ServerError(str(error)) from None
    new = Layer(media_type=layer.media_type, digest=digest, size=size)
    config = msgspec.structs.replace(source.config, file_type=kind)
    return replace(source, config=config, layers=[new if old is layer else old for old in source.layers])
