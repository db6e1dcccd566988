"""Pull: a manifest, the blobs it names, and last its name."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from ollamapy.models import ARCHITECTURES
from ollamapy.store.errors import InvalidDigestError, ModelNotFoundError, StoreError
from ollamapy.store.facts import is_runnable
from ollamapy.store.manifest import MANIFEST_TYPE, Layer, Manifest, ModelConfig, decode_config
from ollamapy.store.names import ModelName, parse_digest
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.errors import DigestMismatchError, RegistryError
from ollamapy.store.registry.http import Patience, RegistryClient
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.store import Store
from ollamapy.store.threads import finish_in_thread
from ollamapy.types import UnsupportedModelError

Event = dict[str, Any]

_MANIFEST_LIMIT = 4 << 20  # bytes
_CONFIG_LIMIT = 1 << 20
_MOST_LAYERS = 10_000
_MOST_BYTES = 1 << 50  # of a layer: more is a lie
_ROUNDS = 3  # of fetching what somebody removes
_INTERVAL = 0.06  # seconds between progress events


@dataclass(frozen=True)
class Transfers:
    """What pulls and pushes of a server share."""

    store: Store
    downloads: Downloads
    key: Callable[[], RegistryKey]
    patience: Patience
    prune: bool = True  # remove what an updated name no longer names


async def pull(transfers: Transfers, name: ModelName, insecure: bool) -> AsyncGenerator[Event, None]:
    """Progress events of a pull, Ollama's. The name is given last; until then it means what it meant before.

    Raises RegistryError, StoreError, UnsupportedModelError, OSError.
    """
    store = transfers.store
    yield {"status": "pulling manifest"}
    async with RegistryClient(name, insecure, transfers.key, transfers.patience) as client:
        try:
            data = await _manifest(client)
            manifest = parse_manifest(data)
        except RegistryError as error:
            raise type_preserving(error, f"pull model manifest: {error}") from None
        refuse(manifest, await _config(client, store, manifest.config))
        for _ in range(_ROUNDS):
            spoilt: DigestMismatchError | None = None
            try:
                for layer in [*manifest.layers, manifest.config]:
                    async with aclosing(_layer(transfers, client, layer)) as events:
                        async for event in events:
                            yield event
            except DigestMismatchError as error:
                spoilt = error
            yield {"status": "verifying sha256 digest"}
            if spoilt is not None:
                raise spoilt
            yield {"status": "writing manifest"}
            old = await finish_in_thread(_existing, store, name)
            if await finish_in_thread(_name, store, name, data, manifest):
                break
        else:
            raise StoreError(f"blobs of {name.short} are removed while they are pulled")
    unused = set() if old is None else old.digests - manifest.digests
    if unused and transfers.prune:
        yield {"status": "removing unused layers"}
        await finish_in_thread(store.prune, unused)
    yield {"status": "success"}


def _existing(store: Store, name: ModelName) -> Manifest | None:
    try:
        return store.get(name).manifest
    except (ModelNotFoundError, StoreError):
        return None


def _name(store: Store, name: ModelName, data: bytes, manifest: Manifest) -> bool:
    """Give the name, unless somebody has removed a blob meanwhile who deleted another model. Blocks."""
    with store.blobs.writing():
        if not all(
            store.blobs.whole(layer.digest, layer.size) for layer in [*manifest.layers, manifest.config]
        ):
            return False
        store.put(name, data)
        return True


def type_preserving(error: RegistryError, text: str) -> RegistryError:
    """The same failure with more words."""
    error.args = (text,)
    return error


async def _manifest(client: RegistryClient) -> bytes:
    async with client.send("GET", client.manifest, {"Accept": MANIFEST_TYPE}) as response:
        return await client.read(response, _MANIFEST_LIMIT)


def parse_manifest(data: bytes) -> Manifest:
    """Check what a registry says before anything is done with it. Raises RegistryError."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise RegistryError(f"not a model manifest: {error}") from None
    if not manifest.layers:
        raise RegistryError("not a model manifest: no layers")
    if len(manifest.layers) > _MOST_LAYERS:
        raise RegistryError(f"a manifest of {len(manifest.layers)} layers")
    sizes: dict[str, int] = {}
    for layer in [*manifest.layers, manifest.config]:
        try:
            digest = parse_digest(layer.digest)
        except InvalidDigestError as error:
            raise RegistryError(str(error)) from None
        if not 0 <= layer.size <= _MOST_BYTES:
            raise RegistryError(f"a layer of {layer.size} bytes")
        if sizes.setdefault(digest, layer.size) != layer.size:
            raise RegistryError(f"two sizes of {digest}")
    return manifest


async def _config(client: RegistryClient, store: Store, layer: Layer) -> ModelConfig:
    """The configuration, from the store or the registry; it is kept only as a blob like the others, later."""
    if layer.size > _CONFIG_LIMIT:
        raise RegistryError(f"a configuration of {layer.size} bytes")
    if store.blobs.whole(layer.digest, layer.size):
        data = store.blobs.path(layer.digest).read_bytes()
    else:
        async with client.send("GET", client.blob(layer.digest)) as response:
            data = await client.read(response, _CONFIG_LIMIT)
        got = "sha256:" + hashlib.sha256(data).hexdigest()
        if got != parse_digest(layer.digest):
            raise DigestMismatchError(layer.digest, got)
    try:
        return decode_config(data)
    except msgspec.MsgspecError as error:
        raise RegistryError(f"the model's configuration cannot be read: {error}") from None


def refuse(manifest: Manifest, config: ModelConfig) -> None:
    """Raise UnsupportedModelError for a model that we could not run, before its weights are fetched."""
    kinds = {layer.kind for layer in manifest.layers}
    if "tensor" in kinds:
        raise UnsupportedModelError("models of separate tensors are not supported by this server")
    if "model" not in kinds:
        return
    if config.model_format not in ("", "gguf"):
        raise UnsupportedModelError(f"models in the format {config.model_format!r} are not supported")
    if config.model_family and config.model_family not in ARCHITECTURES:
        raise UnsupportedModelError(f"the architecture {config.model_family!r} is not supported")
    if config.file_type.lower() not in ("", "unknown") and not is_runnable(config.file_type):
        raise UnsupportedModelError(f"the tensor type {config.file_type!r} is not supported")


async def _layer(transfers: Transfers, client: RegistryClient, layer: Layer) -> AsyncGenerator[Event, None]:
    digest = parse_digest(layer.digest)
    status: Event = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": layer.size}
    if transfers.store.blobs.whole(digest, layer.size):
        yield {**status, "completed": layer.size}
        return
    async with transfers.downloads.join(client, digest, layer.size) as download:
        async for completed in download.progress(_INTERVAL):
            yield {**status, "completed": completed} if completed else status
