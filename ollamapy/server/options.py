"""`options` of a request over the model's parameters, with Ollama's types, defaults and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ollamapy.server.errors import ServerError
from ollamapy.store.parameters import PARAMETERS, Kind
from ollamapy.types import RequestError, SamplingOptions

# What a Modelfile may set, but for drafts: a request does not choose those.
_KINDS: dict[str, Kind] = {name: kind for name, kind in PARAMETERS.items() if name != "draft_num_predict"}
_TYPE_NAMES = {"int": "integer", "float": "float32", "bool": "boolean", "strings": "an array of strings"}
_INT_LIMIT = 2**31 - 1
_FLOAT_LIMIT = 3.4e38  # of float32
_SMALLEST_CONTEXT = 4  # tokens
_MOST_STOPS = 1000  # each is compared with every character of an answer


@dataclass(slots=True)
class Options:
    """Everything that options and parameters say about one generation."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    num_ctx: int | None = None
    num_predict: int = -1
    num_keep: int = 4
    stop: tuple[str, ...] = ()

    def context(self, default: int, most: int) -> int:
        """The request's window in tokens: its own or the default, never above what the model can. 0 and less are the
        smallest window, not the default."""
        wanted = default if self.num_ctx is None else self.num_ctx
        return min(max(wanted, _SMALLEST_CONTEXT), most)


def _convert(name: str, kind: Kind, value: Any) -> Any:
    """One value in its type. Raises ServerError, which is the status that Ollama gives a wrong type here."""
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "strings" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        if len(value) > _MOST_STOPS:
            raise RequestError(f'option "{name}" has {len(value)} texts, at most {_MOST_STOPS} are taken')
        return tuple(value)
    if kind in ("int", "float") and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isnan(value):
            raise ServerError(f'option "{name}" must be a number')
        if kind == "int":
            return int(max(-_INT_LIMIT, min(value, _INT_LIMIT)))
        return float(max(-_FLOAT_LIMIT, min(value, _FLOAT_LIMIT)))
    if kind == "strings" and not isinstance(value, list):
        raise ServerError(f'option "{name}" must be of type array')
    raise ServerError(f'option "{name}" must be of {"type " if kind != "strings" else ""}{_TYPE_NAMES[kind]}')


def merge_options(parameters: Mapping[str, Any], request: Mapping[str, Any] | None) -> Options:
    """A request's options over a model's parameters. Unknown names and nulls are ignored, ints truncate
    floats.

    Raises ServerError for a value of the wrong type, wherever it comes from.
    """
    values: dict[str, Any] = {}
    for layer in (parameters, request or {}):
        for name, value in layer.items():
            kind = _KINDS.get(name)
            if kind is not None and value is not None:
                values[name] = _convert(name, kind, value)
    seed = values.get("seed", -1)
    sampling = SamplingOptions(seed=None if seed == -1 else seed & 0xFFFFFFFF)
    for name in (
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
        "repeat_last_n",
    ):
        if name in values:
            setattr(sampling, name, values[name])
    options = Options(sampling=sampling, num_ctx=values.get("num_ctx"))
    for name in ("num_predict", "num_keep", "stop"):
        if name in values:
            setattr(options, name, values[name])
    return options
