"""The model store in Ollama's layout: `manifests/<host>/<namespace>/<model>/<tag>`, `blobs/sha256-…`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from ollamapy.store.blobs import Blobs, sync_folder
from ollamapy.store.errors import InvalidDigestError, ModelNotFoundError, StoreError
from ollamapy.store.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    ModelConfig,
    decode_config,
    encode_config,
    layer_type,
)
from ollamapy.store.names import ModelName, parse_digest

_HIDDEN = ".partial-"
_UNNAMED_FOR = 86_400.0  # seconds that a blob without a name is kept
_ROUNDS = 100  # of making folders that somebody removes
_TEXT_LIMIT = 16 << 20  # no template, system text or parameter layer is larger


@dataclass(frozen=True)
class StoredModel:
    """A model as its manifest describes it. Layers are read when they are asked for and then kept."""

    name: ModelName
    manifest: Manifest
    digest: str  # SHA-256 of the manifest, 64 digits
    modified: float  # seconds since 1970
    blobs: Blobs

    def _first(self, kind: str) -> Path | None:
        """The path of the first layer of a kind. Raises StoreError when its blob is missing."""
        for layer in self.manifest.layers:
            if layer.kind == kind:
                return self._blob(layer)
        return None

    def _blob(self, layer: Layer) -> Path:
        try:
            path = self.blobs.path(layer.digest)
        except InvalidDigestError:
            raise StoreError(f"the manifest of {self.name.short} has an invalid digest") from None
        if not path.is_file():
            raise StoreError(f"model {self.name.short} is incomplete: blob {layer.digest} is missing")
        return path

    def _text(self, path: Path) -> str:
        if path.stat().st_size > _TEXT_LIMIT:
            raise StoreError(f"blob {path.name} of {self.name.short} is too large for a text")
        return path.read_bytes().decode("utf-8", "replace")  # with the line ends that it has

    def _texts(self, kind: str) -> list[str]:
        return [self._text(self._blob(layer)) for layer in self.manifest.layers if layer.kind == kind]

    def _json(self, kind: str) -> Any:
        path = self._first(kind)
        if path is None:
            return None
        try:
            return msgspec.json.decode(self._text(path))
        except msgspec.DecodeError as error:
            raise StoreError(f"the {kind} layer of {self.name.short} is no JSON: {error}") from None

    @cached_property
    def config(self) -> ModelConfig:
        try:
            return decode_config(self._text(self._blob(self.manifest.config)).encode())
        except msgspec.MsgspecError as error:
            raise StoreError(f"the configuration of {self.name.short} cannot be read: {error}") from None

    @cached_property
    def model_path(self) -> Path:
        """The GGUF. Raises StoreError for a model without one."""
        path = self._first("model")
        if path is None:
            raise StoreError(f"model {self.name.short} has no weights")
        return path

    def paths(self, kind: str) -> list[Path]:
        """The blobs of all layers of a kind. Raises StoreError when one is missing."""
        return [self._blob(layer) for layer in self.manifest.layers if layer.kind == kind]

    @property
    def weights(self) -> str:
        """What is loaded: the digest of the weights, with those of adapters behind it; "" for a model without."""
        digests = [layer.digest for layer in self.manifest.layers if layer.kind in ("model", "adapter")]
        return "+".join(digests)

    @cached_property
    def template(self) -> str | None:
        path = self._first("template") or self._first("prompt")  # older stores call it prompt
        return None if path is None else self._text(path)

    @cached_property
    def system(self) -> str:
        path = self._first("system")
        return "" if path is None else self._text(path)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        value = self._json("params")
        return value if isinstance(value, dict) else {}

    @cached_property
    def messages(self) -> list[dict[str, Any]]:
        value = self._json("messages")
        return value if isinstance(value, list) else []

    @cached_property
    def licenses(self) -> list[str]:
        return self._texts("license")

    def count(self, kind: str) -> int:
        return sum(layer.kind == kind for layer in self.manifest.layers)


def _missing(name: ModelName) -> ModelNotFoundError:
    return ModelNotFoundError(f"model '{name.short}' not found")


def _is_digest(text: str) -> bool:
    try:
        parse_digest(text)
    except InvalidDigestError:
        return False
    return True


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """What lies depth levels below a folder, in order. Folders that somebody removes meanwhile are empty."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        if depth == 1:
            yield path
        else:
            yield from _below(path, depth - 1)


def _place(temporary: str, path: Path) -> None:
    """Put a manifest in its place, in folders that a delete may remove while they are empty."""
    for _ in range(_ROUNDS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)  # noqa: PTH105 (the name is a string)
            return
        except FileNotFoundError:
            continue
        except FileExistsError:  # mkdir looks a second time, when the folder that was in its way may be gone
            if path.parent.is_file():
                raise
    raise StoreError(f"somebody removes {path.parent} all the time")


class Store:
    """Models under a root folder. Everything here blocks; servers call it from a thread where it may take
    long."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = root / "manifests"
        self.blobs = Blobs(root / "blobs")
        self.changed: Callable[[], None] = lambda: None  # called when a name is gone or means another model

    def _find(self, name: ModelName) -> Path | None:
        """The manifest of a name in any spelling."""
        exact = self.manifests / name.path
        if exact.is_file():
            return exact
        for found, path in self._walk():
            if found.folded == name.folded:
                return path
        return None

    def spelling(self, name: ModelName) -> ModelName:
        """The name as it is stored, or as given when it is not."""
        path = self._find(name)
        return name if path is None else ModelName(*path.relative_to(self.manifests).parts)

    def _walk(self) -> Iterator[tuple[ModelName, Path]]:
        if not self.manifests.is_dir():
            return
        try:
            for path in _below(self.manifests, 4):
                name = ModelName(*path.relative_to(self.manifests).parts)
                if name.valid and path.is_file():
                    yield name, path
        except OSError as error:
            raise StoreError(f"cannot read the model folder {self.root}: {error.strerror}") from None

    def _read(self, name: ModelName, path: Path) -> StoredModel:
        try:
            data, modified = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:  # somebody deletes it just now
            raise _missing(name) from None
        except OSError as error:
            raise StoreError(f"cannot read the manifest of {name.short}: {error.strerror}") from None
        return self._stored(name, data, modified)

    def _stored(self, name: ModelName, data: bytes, modified: float) -> StoredModel:
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except msgspec.MsgspecError as error:
            raise StoreError(f"the manifest of {name.short} cannot be read: {error}") from None
        return StoredModel(name, manifest, hashlib.sha256(data).hexdigest(), modified, self.blobs)

    def get(self, name: ModelName) -> StoredModel:
        """Raises ModelNotFoundError, StoreError for a manifest that cannot be read."""
        path = self._find(name)
        if path is None:
            raise _missing(name)
        return self._read(ModelName(*path.relative_to(self.manifests).parts), path)

    def list(self) -> list[StoredModel]:
        """Every model, the last modified first; a manifest that cannot be read is left out."""
        models = []
        for name, path in self._walk():
            with contextlib.suppress(StoreError, ModelNotFoundError, OSError):
                models.append(self._read(name, path))
        return sorted(models, key=lambda model: model.modified, reverse=True)

    def add_text(self, kind: str, text: str) -> Layer:
        """Write a layer of text."""
        digest, size = self.blobs.add([text.encode("utf-8", "replace")])
        return Layer(media_type=layer_type(kind), digest=digest, size=size)

    def write(self, name: ModelName, config: ModelConfig, layers: Iterable[Layer]) -> StoredModel:
        """Give a name to layers whose blobs are in the store; the name keeps its first spelling.

        Call inside blobs.writing(), which must hold since the first of the blobs was written or chosen.
        """
        layers = list(layers)
        config.rootfs.diff_ids = [layer.digest for layer in layers]
        digest, size = self.blobs.add([encode_config(config)])
        manifest = Manifest(config=Layer(media_type=CONFIG_TYPE, digest=digest, size=size), layers=layers)
        return self.put(name, msgspec.json.encode(manifest))

    def put(self, name: ModelName, data: bytes) -> StoredModel:
        """Write a manifest as it is; its blobs are there. Call inside blobs.writing()."""
        existing = self._find(name)
        path = existing or self.manifests / name.path
        self.manifests.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=_HIDDEN, dir=self.manifests)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _place(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        with contextlib.suppress(FileNotFoundError):  # deleted again already
            sync_folder(path.parent)
        if existing is not None:
            self.changed()
        return self._stored(ModelName(*path.relative_to(self.manifests).parts), data, time.time())

    def copy(self, source: ModelName, destination: ModelName) -> None:
        """Raises ModelNotFoundError."""
        path = self._find(source)
        if path is None:
            raise ModelNotFoundError(f'model "{source.short}" not found')
        with self.blobs.writing():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise _missing(source) from None
            self.put(destination, data)

    def delete(self, name: ModelName) -> None:
        """Remove a name and the blobs that no other manifest names. Raises ModelNotFoundError."""
        model = self.get(name)
        path = self.manifests / model.name.path
        try:
            path.unlink()
        except FileNotFoundError:  # somebody else was faster
            raise _missing(name) from None
        for folder in list(path.parents)[:3]:  # empty model, namespace and host folders go too
            with contextlib.suppress(OSError):
                folder.rmdir()
        self.prune(model.manifest.digests)
        self.changed()

    def prune(self, candidates: set[str] | None = None) -> None:
        """Remove blobs that no manifest names: these, or all that have lain there for a day.

        Nothing happens while a writer is at work, who may be about to name them, nor when a manifest cannot
        be read: what it names is unknown. An Ollama on the same folder knows nothing of our lock, hence the day.
        """
        if not self.blobs.folder.is_dir():
            return
        with self.blobs.exclusive() as alone:
            if not alone:
                return
            named: set[str] = set()
            try:
                for name, path in self._walk():
                    with contextlib.suppress(ModelNotFoundError):  # it names nothing any more
                        named |= {parse_digest(digest) for digest in self._read(name, path).manifest.digests}
                if candidates is None:
                    found = self.blobs.digests(older_than=time.time() - _UNNAMED_FOR)
                else:
                    found = {parse_digest(digest) for digest in candidates}
            except (StoreError, InvalidDigestError, OSError):
                return
            for digest in found - named:
                self.blobs.remove(digest)

    def tidy(self, prune: bool = True) -> None:
        """Remove what a killed process left: hidden files and, with prune, blobs that no manifest names.

        A folder that we may not write to stays as it is.
        """
        with contextlib.suppress(OSError):
            orphans = self.blobs.tidy()
            if self.manifests.is_dir():
                for path in self.manifests.glob(_HIDDEN + "*"):
                    path.unlink(missing_ok=True)
            self.prune({digest for digest in orphans if _is_digest(digest)})
            if prune:
                self.prune()
