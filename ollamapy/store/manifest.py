"""Manifests and configurations as Ollama writes them: a Docker v2 schema with media types of its own."""

from __future__ import annotations

from typing import Any

import msgspec

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_PREFIX = "application/vnd.ollama.image."


def layer_type(kind: str) -> str:
    """The media type of a layer: model, adapter, projector, template, system, params, messages, license."""
    return _LAYER_PREFIX + kind


class Layer(msgspec.Struct, kw_only=True, omit_defaults=True):
    media_type: str = msgspec.field(name="mediaType")
    digest: str
    size: int
    from_name: str = msgspec.field(default="", name="from")

    @property
    def kind(self) -> str:
        return self.media_type.removeprefix(_LAYER_PREFIX)


class Manifest(msgspec.Struct, kw_only=True):
    schema_version: int = msgspec.field(default=2, name="schemaVersion")
    media_type: str = msgspec.field(default=MANIFEST_TYPE, name="mediaType")
    config: Layer
    layers: list[Layer] = []

    @property
    def digests(self) -> set[str]:
        return {self.config.digest, *(layer.digest for layer in self.layers)}

    @property
    def size(self) -> int:
        """Bytes of everything the model is made of."""
        return self.config.size + sum(layer.size for layer in self.layers)


class RootFS(msgspec.Struct, kw_only=True):
    type: str = "layers"
    diff_ids: list[str] = []


class ModelConfig(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The config blob: what the model is, without opening its GGUF."""

    model_format: str = ""
    model_family: str = ""
    model_families: list[str] | None = None
    model_type: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: list[str] | None = None
    context_length: int = 0
    embedding_length: int = 0
    architecture: str = "amd64"
    os: str = "linux"
    rootfs: RootFS = msgspec.field(default_factory=RootFS)


def encode_config(config: ModelConfig) -> bytes:
    """The config blob's bytes; the container fields are always written, as other readers expect them."""
    fixed: dict[str, Any] = {"architecture": config.architecture, "os": config.os}
    return msgspec.json.encode(
        {**msgspec.to_builtins(config), **fixed, "rootfs": msgspec.to_builtins(config.rootfs)}
    )


def decode_config(data: bytes) -> ModelConfig:
    """Raises msgspec.MsgspecError. Null fields, which Go writes for empty lists, count as absent."""
    value = msgspec.json.decode(data)
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
        rootfs = value.get("rootfs")
        if isinstance(rootfs, dict):
            value["rootfs"] = {key: item for key, item in rootfs.items() if item is not None}
    return msgspec.convert(value, ModelConfig)
