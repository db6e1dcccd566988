"""POST /api/create: a new model from another one, which is pulled where it is missing, from uploaded files, or from a
GGUF on the server's disk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from ollamapy.prompt.architectures import BY_ARCHITECTURE
from ollamapy.prompt.errors import TemplateSyntaxError
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.server.create_sources import (
    Report,
    Source,
    is_server_path,
    quantize_source,
    read_adapter,
    read_source,
)
from ollamapy.server.decode import read_request
from ollamapy.server.errors import ServerError
from ollamapy.server.native_pull import pulling
from ollamapy.server.requests import CreateRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import Event, json_response, last_status, stream_events
from ollamapy.store.errors import InvalidDigestError, ModelNotFoundError
from ollamapy.store.manifest import Layer, ModelConfig
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store
from ollamapy.types import RequestError

_INFO_TEXTS = {
    "model_family": "model_family",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_OLLAMA_PORT = 11434
_INFO_NUMBERS = ("context_length", "embedding_length")


def _check_files(files: dict[str, str]) -> None:
    """Raises RequestError for a path that leads out of the model's folder, and for a missing digest."""
    for path, digest in files.items():
        if not path or any(part in ("", ".", "..") for part in path.split("/")):
            raise RequestError("file path must be relative")
        if not digest:
            raise InvalidDigestError("invalid digest format")


def _check(asked: CreateRequest) -> ModelName:
    """What can be refused before anything is read. Raises RequestError."""
    _check_files(asked.files or {})
    _check_files(asked.draft_files or {})
    if asked.draft_quantize and not asked.draft_files:
        raise RequestError("--draft-quantize requires a DRAFT model")
    if any(not digest for digest in (asked.adapters or {}).values()):
        raise InvalidDigestError("invalid digest format")
    name = ModelName.parse(asked.model_name)
    if asked.from_name and not is_server_path(asked.from_name):
        ModelName.parse_reference(asked.from_name)
    elif not asked.from_name and asked.files is None:
        raise RequestError("neither 'from' or 'files' was specified")
    elif not asked.from_name and not asked.files:
        raise RequestError("unknown type")
    if asked.draft_files is not None:
        if asked.remote_host:
            raise RequestError("DRAFT cannot be used with remote models")
        raise RequestError("draft models are not supported by this server")
    _info(asked.info)
    if asked.template:
        try:
            GoTemplate(asked.template)
        except TemplateSyntaxError as error:
            raise RequestError(f"template error: {error}") from None
    return name


def _info(info: dict[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that `info` sets. Raises RequestError."""
    fields: dict[str, Any] = {}
    for key, target in _INFO_TEXTS.items():
        if key in info:
            if not isinstance(info[key], str):
                raise RequestError(f'info field "{key}" must be a string')
            fields[target] = info[key]
    for key in _INFO_NUMBERS:
        value = info.get(key)
        if key not in info:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f'info field "{key}" must be a number')
        if value < 0 or value != int(value) or value >= 1 << 63:
            raise RequestError(f'info field "{key}" must be a non-negative integer')
        fields[key] = int(value)
    if isinstance(info.get("capabilities"), list):
        fields["capabilities"] = [item for item in info["capabilities"] if isinstance(item, str)]
    return {key: value for key, value in fields.items() if value}


class _Layers:
    """The layers of a model that is being made, in the order in which they were set."""

    def __init__(self, store: Store, source: Source, before: set[str]) -> None:
        """before: the digests that the store had."""
        self._store = store
        self._notes = source.notes
        self._before = before
        self.layers = list(source.layers)

    def add(self, kind: str, texts: Iterable[str]) -> None:
        self.layers += [self._store.add_text(kind, text) for text in texts]

    def replace(self, kind: str, text: str) -> None:
        self.layers = [layer for layer in self.layers if layer.kind != kind]
        self.add(kind, [text])

    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for layer in self.layers:
            if layer.kind == "params":
                value = json.loads(self._store.blobs.existing(layer.digest).read_text("utf-8"))
                found.update(value if isinstance(value, dict) else {})
        return found

    def line(self, layer: Layer) -> str:
        """What a client reads about a layer."""
        known = layer.digest in self._before
        usual = f"{'using existing' if known else 'creating new'} layer {layer.digest}"
        return self._notes.get(layer.digest, usual)


def create_model(
    store: Store, asked: CreateRequest, name: ModelName, report: Report, progress: Callable[[Event], None]
) -> None:
    """Write a model; blocks, and is not interrupted once begun. report gets lines, progress events with sizes."""
    with store.blobs.writing():
        before = store.blobs.digests()
        remote = Source(_remote_config(asked), []) if asked.remote_host else None
        source = remote or read_source(store, asked, report)
        if asked.adapters is not None and remote is None:
            source.layers.append(read_adapter(store, asked.adapters, source, report))
        if asked.quantization:
            source = quantize_source(store, source, asked.quantization, progress)
        made = _Layers(store, source, before)
        if asked.template:
            made.replace("template", asked.template)
        if asked.system:
            made.replace("system", asked.system)
        made.add("license", _licenses(asked.license))
        config, own = _by_architecture(_config(source.config, asked))
        if parameters := {**made.parameters(), **own, **asked.parameters}:
            made.replace("params", json.dumps(parameters, ensure_ascii=False))
        if asked.messages:
            kept = [
                {"content": "", **msgspec.to_builtins(message), "role": message.role.lower()}
                for message in asked.messages
            ]
            made.replace("messages", json.dumps(kept, ensure_ascii=False))
        if source.imported:
            report("verifying conversion")
        for layer in made.layers:
            report(made.line(layer))
        report("writing manifest")
        store.write(name, config, made.layers)


def _remote_config(asked: CreateRequest) -> ModelConfig:
    """The configuration of a model that another server runs: kept and listed, refused when asked."""
    text = asked.remote_host if "://" in asked.remote_host else f"http://{asked.remote_host}"
    try:
        parts = urlsplit(text)
        port = parts.port or _OLLAMA_PORT
    except ValueError:
        raise RequestError("bad remote") from None
    host = f"{parts.scheme}://{parts.hostname or 'localhost'}:{port}{parts.path.rstrip('/')}"
    return ModelConfig(remote_host=host, remote_model=asked.from_name)


def _config(config: ModelConfig, asked: CreateRequest) -> ModelConfig:
    changes = {"renderer": asked.renderer, "parser": asked.parser, "requires": asked.requires}
    kept = {key: value for key, value in changes.items() if value}
    said = _info(asked.info)
    if "model_family" in said:
        said["model_families"] = [said["model_family"], *(config.model_families or [])[-1:]]
    return msgspec.structs.replace(config, **kept, **said)


def _by_architecture(config: ModelConfig) -> tuple[ModelConfig, dict[str, Any]]:
    """The renderer, parser and stop texts that some architectures get when nobody names others."""
    defaults = BY_ARCHITECTURE.get(config.model_family)
    if defaults is None or (config.renderer and config.parser):
        return config, {}
    named = msgspec.structs.replace(
        config, renderer=config.renderer or defaults.renderer, parser=config.parser or defaults.parser
    )
    return named, {"stop": list(defaults.stop)} if defaults.stop else {}


def _licenses(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(text, str) for text in texts):
        raise ServerError("license must be a text or a list of texts")
    return texts


async def _missing(store: Store, asked: CreateRequest) -> ModelName | None:
    """The model that FROM names and the store does not have."""
    if not asked.from_name or asked.remote_host or is_server_path(asked.from_name):
        return None
    name = ModelName.parse_reference(asked.from_name)
    try:
        await asyncio.to_thread(store.get, name)
    except ModelNotFoundError:
        return name
    return None


async def _pulled(service: Service, name: ModelName) -> AsyncGenerator[Event, None]:
    """What a pull says but for its last word. Raises ServerError: what was asked for has begun."""
    try:
        async with aclosing(pulling(service, name, insecure=False)) as events:
            async for event in events:
                if event.get("status") != "success":
                    yield event
    except RequestError as error:
        raise ServerError(str(error)) from None


async def _events(service: Service, asked: CreateRequest, name: ModelName) -> AsyncGenerator[Event, None]:
    if (missing := await _missing(service.store, asked)) is not None:
        async with aclosing(_pulled(service, missing)) as pull:
            async for said in pull:
                yield said
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def progress(event: Event) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def report(status: str) -> None:
        progress({"status": status})

    def work() -> None:
        try:
            create_model(service.store, asked, name, report, progress)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    task = service.write(work)  # ends whole, whoever leaves
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    while (event := await queue.get()) is not None:
        yield event
    await task
    yield {"status": "success"}


async def create(request: web.Request, service: Service) -> web.StreamResponse:
    asked = await read_request(request, CreateRequest)
    events = _events(service, asked, _check(asked))
    if asked.stream:
        return await stream_events(request, events)
    return json_response(await last_status(events))
