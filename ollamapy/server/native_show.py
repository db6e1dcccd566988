"""POST /api/show: everything that is known of a model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
from aiohttp import web

from ollamapy._core import GGUFFile
from ollamapy.server.decode import read_request
from ollamapy.server.encode import timestamp
from ollamapy.server.errors import NotFoundError, RequiredError
from ollamapy.server.models import ServedModel, served
from ollamapy.server.native_models import details
from ollamapy.server.requests import ShowRequest
from ollamapy.server.service import Service
from ollamapy.server.streaming import json_response
from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.modelfile import parameter_values, write_modelfile
from ollamapy.store.names import ModelName

_HIDDEN_KEYS = ("general.name", "general.description", "tokenizer.chat_template")
_COPILOT = "GitHubCopilotChat/"  # an agent that shows general.basename where people expect the model's name


def parameters_text(parameters: dict[str, Any]) -> str:
    """A name and a value per line; texts are quoted."""
    lines = []
    for key, value in parameters.items():
        for item in parameter_values(value):
            shown = json.dumps(item, ensure_ascii=False)
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


def describe_model(model: ServedModel, system: str, verbose: bool, agent: str) -> dict[str, Any]:
    """The answer to show; blocks."""
    stored = model.stored
    file = GGUFFile(str(stored.model_path))
    value: dict[str, Any] = {}
    if stored.licenses:
        value["license"] = "\n".join(stored.licenses)
    value["modelfile"] = write_modelfile(stored, model.template_text, system)
    if stored.parameters:
        value["parameters"] = parameters_text(stored.parameters)
    value["template"] = model.template_text
    if system:
        value["system"] = system
    value["details"] = details(stored)
    if stored.messages:
        # their calls and tools' names are kept, but Ollama does not show them
        value["messages"] = [
            {"role": message.get("role", ""), "content": message.get("content", "")}
            for message in stored.messages
        ]
    info = model_info(file, model.facts.parameters, verbose)
    if agent.startswith(_COPILOT) and "general.basename" in info:
        info["general.basename"] = stored.name.short
    value["model_info"] = info
    value["tensors"] = [{"name": t.name, "type": t.type, "shape": list(t.shape)} for t in file.tensors()]
    value["capabilities"] = model.capabilities
    value["modified_at"] = timestamp(int(stored.modified * 1e9))
    return value


async def show(request: web.Request, service: Service) -> web.Response:
    asked = await read_request(request, ShowRequest)
    if not asked.model_name:
        raise RequiredError("model is required")
    name = ModelName.parse(asked.model_name)
    agent = request.headers.get("User-Agent", "")

    def work() -> dict[str, Any]:
        model = served(service.store, asked.model_name, name)
        return describe_model(model, asked.system or model.stored.system, asked.verbose, agent)

    try:
        return json_response(await asyncio.to_thread(work))
    except ModelNotFoundError:
        raise NotFoundError(f"model '{name.short}' not found") from None
