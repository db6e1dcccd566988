"""POST /api/show: everything that is known of a model."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from ollamapy._core import GGUFFile
from ollamapy.server.decode import read_request
from ollamapy.server.encode import timestamp
from ollamapy.server.errors import NotFoundError, RequiredError
from ollamapy.server.models import NO_TEMPLATE, ServedModel, details, served
from ollamapy.server.requests import ShowRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response
from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.modelfile import shown_modelfile, stored_modelfile
from ollamapy.store.names import ModelName
from ollamapy.store.parameters import plain_text, values_of
from ollamapy.store.store import StoredModel

_HIDDEN_KEYS = ("general.name", "general.description", "tokenizer.chat_template")
_COPILOT = "GitHubCopilotChat/"  # an agent that shows general.basename where people expect the model's name


def parameters_text(parameters: dict[str, Any]) -> str:
    """A name and a value per line; texts are quoted."""
    lines = []
    for key, value in parameters.items():
        for item in values_of(value):
            shown = orjson.dumps(item).decode() if isinstance(item, str) else plain_text(item)
            lines.append(f"{key:<30} {shown}")
    return "\n".join(lines)


def model_info(file: GGUFFile, parameters: int, verbose: bool) -> dict[str, Any]:
    """The metadata by key; lists only when verbose, they may have hundreds of thousands of items."""
    info: dict[str, Any] = {"general.parameter_count": parameters}
    for key in file.keys():  # noqa: SIM118 (not a dict)
        if key in _HIDDEN_KEYS:
            continue
        if _is_list(file, key):
            info[key] = file.get(key) if verbose else None
        else:
            value = file.get(key)
            info[key] = np.float32(value) if isinstance(value, float) else value  # as short as it was written
    return dict(sorted(info.items()))


def _is_list(file: GGUFFile, key: str) -> bool:
    try:
        file.array_length(key)
    except ValueError:
        return False
    return True


def describe_texts(stored: StoredModel, template: str, asked: ShowRequest) -> dict[str, Any]:
    """What does not need the GGUF. A template that is the file's own has no place in a Modelfile."""
    system = asked.system or stored.system
    written = stored.template if stored.template is not None else template if template == NO_TEMPLATE else ""
    value: dict[str, Any] = {}
    if license := "\n".join(stored.licenses):
        value["license"] = license
    value["modelfile"] = shown_modelfile(stored, stored_modelfile(stored, written, system, asked.options))
    if parameters := parameters_text(stored.parameters):
        value["parameters"] = parameters
    if template:
        value["template"] = template
    if system:
        value["system"] = system
    value["details"] = details(stored)
    if stored.messages:
        # their calls and tools are kept, but Ollama does not show them
        value["messages"] = [
            {key: message.get(key, "") for key in ("role", "content")} for message in stored.messages
        ]
    if stored.config.requires:
        value["requires"] = stored.config.requires
    value["modified_at"] = timestamp(int(stored.modified * 1e9))
    return value


def describe_model(model: ServedModel, asked: ShowRequest, agent: str) -> dict[str, Any]:
    """The answer to show; blocks."""
    stored = model.stored
    file = GGUFFile(str(stored.model_path))
    value = describe_texts(stored, model.template_text, asked)
    info = model_info(file, model.facts.parameters, asked.verbose)
    if agent.startswith(_COPILOT):
        info["general.basename"] = asked.model_name
    value["model_info"] = info
    value["tensors"] = [{"name": t.name, "type": t.type, "shape": list(t.shape)} for t in file.tensors()]
    value["capabilities"] = model.capabilities
    return value


def describe_remote(stored: StoredModel, asked: ShowRequest) -> dict[str, Any]:
    """The answer to show for a model that another server runs."""
    config = stored.config
    value = describe_texts(stored, stored.template or NO_TEMPLATE, asked)
    value |= {"remote_model": config.remote_model, "remote_host": config.remote_host, "model_info": {}}
    if config.capabilities:
        value["capabilities"] = config.capabilities
    if family := config.model_family:
        lengths = {"context_length": config.context_length, "embedding_length": config.embedding_length}
        value["model_info"] = {
            "general.architecture": family,
            **{f"{family}.{key}": length for key, length in lengths.items() if length},
        }
    return value


_ORDER = ("license", "modelfile", "parameters", "template", "system", "details", "messages", "remote_model",
          "remote_host", "model_info", "tensors", "capabilities", "modified_at", "requires")  # fmt: skip


async def show(request: web.Request, service: Service) -> web.Response:
    asked = await read_request(request, ShowRequest)
    if not asked.model_name:
        raise RequiredError("model is required")
    name = ModelName.parse_reference(asked.model_name)
    agent = request.headers.get("User-Agent", "")

    def work() -> dict[str, Any]:
        stored = service.store.get(name)
        if stored.config.remote_host:
            return describe_remote(stored, asked)
        return describe_model(served(service.store, asked.model_name, name), asked, agent)

    try:
        value = await asyncio.to_thread(work)
    except ModelNotFoundError:
        raise NotFoundError(f"model '{name.short}' not found") from None
    return json_response({key: value[key] for key in _ORDER if key in value})
