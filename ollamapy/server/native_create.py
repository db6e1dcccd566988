"""POST /api/create: a new model from another one, from an uploaded GGUF, or from a GGUF on the server's
disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from aiohttp import web

from ollamapy.prompt.architectures import BY_ARCHITECTURE
from ollamapy.prompt.errors import TemplateSyntaxError
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.server.decode import read_request
from ollamapy.server.errors import RequiredError, ServerError, UnsupportedError
from ollamapy.server.requests import CreateRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import Event, json_response, last_status, stream_events
from ollamapy.store.errors import BlobNotFoundError, InvalidDigestError, ModelNotFoundError
from ollamapy.store.importing import Imported, model_layers
from ollamapy.store.manifest import Layer, ModelConfig
from ollamapy.store.names import ModelName, parse_digest
from ollamapy.store.store import Store
from ollamapy.types import RequestError

_BLOCK = 4 << 20  # bytes
_UNQUANTIZED = ("F32", "F16", "BF16")
_MAGIC = b"GGUF"
_ORDER = ("model", "projector", "adapter", "template", "system", "params", "messages", "license")
_INFO_TEXTS = {
    "model_family": "model_family",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
"""fields of `info` that are texts, and what they are in the configuration"""

Report = Callable[[str], None]


def _check(asked: CreateRequest) -> ModelName:
    """What can be refused before anything is read. Raises RequestError."""
    if not asked.model_name:
        raise RequiredError("model is required")
    name = ModelName.parse(asked.model_name)
    if asked.remote_host:
        raise UnsupportedError("models of remote servers are not supported by this server")
    if not asked.from_name and asked.files is None:
        raise RequestError("neither 'from' or 'files' was specified")
    if asked.files is not None and not asked.from_name:
        if not asked.files:
            raise RequestError("unknown type")
        for path, digest in asked.files.items():
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise RequestError("file path must be relative")
            if not digest:
                raise InvalidDigestError("invalid digest format")
    if asked.adapters:
        for digest in asked.adapters.values():
            parse_digest(digest)
    for key in ("context_length", "embedding_length"):
        value = asked.info.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise RequestError(f'info field "{key}" must be a non-negative integer')
    for key in _INFO_TEXTS:
        if not isinstance(asked.info.get(key, ""), str):
            raise RequestError(f'info field "{key}" must be a string')
    if asked.template:
        try:
            GoTemplate(asked.template)
        except TemplateSyntaxError as error:
            raise RequestError(f"template error: {error}") from None
    return name


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~/")) and text.lower().endswith(".gguf")


def _source(store: Store, asked: CreateRequest, report: Report) -> Imported:
    """The configuration and layers to begin with. Call inside blobs.writing()."""
    if _is_path(asked.from_name):
        report("copying GGUF")
        digest, _ = store.blobs.add(_file_blocks(Path(asked.from_name).expanduser()))
        return _parsed(store, digest, report)
    if asked.from_name:
        base = ModelName.parse(asked.from_name)
        try:
            stored = store.get(base)
        except ModelNotFoundError:
            raise ModelNotFoundError(f"model '{asked.from_name}' not found; pull it first") from None
        layers = [
            msgspec.structs.replace(layer, from_name=stored.name.short) if layer.kind == "model" else layer
            for layer in stored.manifest.layers
        ]
        return Imported(msgspec.structs.replace(stored.config), layers)
    assert asked.files is not None
    ggufs = []
    for text in asked.files.values():
        try:
            digest = parse_digest(text)
            blob = store.blobs.existing(digest)
        except (InvalidDigestError, BlobNotFoundError) as error:
            raise ServerError(str(error)) from None
        if not _is_gguf(blob):
            raise RequestError("unknown type")
        ggufs.append(digest)
    if len(ggufs) != 1:
        raise UnsupportedError("a model of several GGUF files is not supported by this server")
    return _parsed(store, ggufs[0], report)


def _is_gguf(path: Path) -> bool:
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


def _parsed(store: Store, digest: str, report: Report) -> Imported:
    report("parsing GGUF")
    imported = model_layers(store, digest)
    if imported.recognized:
        report(f"using autodetected template {imported.recognized}")
    return imported


def create_model(store: Store, asked: CreateRequest, name: ModelName, report: Report) -> None:
    """Write a model; blocks, and is not interrupted once begun. report gets progress lines."""
    blobs = store.blobs
    with blobs.writing():
        source = _source(store, asked, report)
        if asked.adapters:
            for digest in asked.adapters.values():
                if not _is_gguf(blobs.existing(digest)):
                    raise RequestError("supplied file was not in GGUF format")
            raise UnsupportedError("adapters are not supported by this server")
        config, layers = source.config, source.layers
        if asked.quantize:
            if config.file_type not in _UNQUANTIZED:
                raise ServerError("quantization is only supported for F16, BF16 and F32 models")
            raise UnsupportedError("quantizing is not supported by this server")
        before = {layer.digest for layer in layers}

        def replace(kind: str, texts: list[str]) -> None:
            nonlocal layers
            layers = [layer for layer in layers if layer.kind != kind]
            layers += [store.add_text(kind, text) for text in texts]

        if asked.template:
            replace("template", [asked.template])
        if asked.system:
            replace("system", [asked.system])
        config, parameters = _by_architecture(_config(config, asked), asked.parameters)
        if parameters:
            replace("params", [_merged_parameters(store, layers, parameters)])
        if asked.messages:
            kept = [{"content": "", **msgspec.to_builtins(message)} for message in asked.messages]
            replace("messages", [json.dumps(kept, ensure_ascii=False)])
        if licenses := _licenses(asked.license):
            replace("license", licenses)
        layers.sort(key=lambda layer: _ORDER.index(layer.kind) if layer.kind in _ORDER else len(_ORDER))
        for layer in layers:
            known = layer.digest in before
            report(f"{'using existing' if known else 'creating new'} layer {layer.digest}")
        report("writing manifest")
        store.write(name, config, layers)


def _config(config: ModelConfig, asked: CreateRequest) -> ModelConfig:
    changes: dict[str, Any] = {
        "renderer": asked.renderer,
        "parser": asked.parser,
        "requires": asked.requires,
        **{field: asked.info.get(key) for key, field in _INFO_TEXTS.items()},
        "context_length": asked.info.get("context_length"),
        "embedding_length": asked.info.get("embedding_length"),
    }
    changes = {field: value for field, value in changes.items() if value}
    if "model_family" in changes:
        changes["model_families"] = [changes["model_family"]]
    return msgspec.structs.replace(config, **changes)


def _by_architecture(config: ModelConfig, parameters: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """The renderer, parser and stop texts that some architectures get when nobody names others."""
    defaults = BY_ARCHITECTURE.get(config.model_family)
    if defaults is None or (config.renderer and config.parser):
        return config, parameters
    named = msgspec.structs.replace(
        config, renderer=config.renderer or defaults.renderer, parser=config.parser or defaults.parser
    )
    stop = {"stop": list(defaults.stop)} if defaults.stop else {}
    return named, {**stop, **parameters}


def _merged_parameters(store: Store, layers: list[Layer], new: dict[str, Any]) -> str:
    """The new parameters over those of the layers."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.kind == "params":
            merged.update(json.loads(store.blobs.existing(layer.digest).read_text("utf-8")))
    merged.update(new)
    return json.dumps(merged, ensure_ascii=False)


def _licenses(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(text, str) for text in texts):
        raise RequestError("license must be a text or a list of texts")
    return texts


async def _events(service: Service, asked: CreateRequest, name: ModelName) -> AsyncGenerator[Event, None]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    def report(status: str) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, status)

    def work() -> None:
        try:
            create_model(service.store, asked, name, report)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    task = service.write(work)  # ends whole, whoever leaves
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    while (status := await queue.get()) is not None:
        yield {"status": status}
    await task
    yield {"status": "success"}


async def create(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, CreateRequest)
    events = _events(service, asked, _check(asked))
    if asked.stream:
        return await stream_events(request, events)
    return json_response(await last_status(events))
