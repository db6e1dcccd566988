"""Options as Modelfiles and the prompt write them: words that become numbers, truth values and lists of texts,
and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from ollamapy.types import RequestError

Kind = Literal["int", "float", "bool", "strings"]

PARAMETERS: dict[str, Kind] = {
    "num_ctx": "int",
    "num_batch": "int",
    "num_gpu": "int",
    "main_gpu": "int",
    "use_mmap": "bool",
    "num_thread": "int",
    "draft_num_predict": "int",
    "num_keep": "int",
    "seed": "int",
    "num_predict": "int",
    "top_k": "int",
    "top_p": "float",
    "min_p": "float",
    "typical_p": "float",
    "repeat_last_n": "int",
    "temperature": "float",
    "repeat_penalty": "float",
    "presence_penalty": "float",
    "frequency_penalty": "float",
    "stop": "strings",
}
DEPRECATED = frozenset(
    [
        "penalize_newline",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    ]
)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_EXPONENT_FROM = 6  # a power of ten
_INT = re.compile(r"[+-]?[0-9]+", re.ASCII)


class ParameterError(RequestError):
    """A parameter that does not exist, or a value that is not of its type."""


def parse_parameter(name: str, words: Sequence[str]) -> Any:
    """The value that words stand for: the first of them, or all of them for a list of texts.

    Raises ParameterError.
    """
    kind = PARAMETERS.get(name)
    if kind is None:
        raise ParameterError(f"unknown parameter '{name}'")
    if kind == "strings":
        return list(words)
    word = words[0] if words else ""
    value: int | float | bool | None = None
    if kind == "int" and _INT.fullmatch(word) and -(2**63) <= int(word) < 2**63:
        value = int(word)
    elif kind == "float":
        value = _float(word)
    elif kind == "bool" and word in _TRUE + _FALSE:
        value = word in _TRUE
    if value is None:
        raise ParameterError(f"invalid {kind} value [{' '.join(words)}]")
    return value


def _float(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and word == word.strip() else None


def float_text(value: float) -> str:
    """A float as Go prints it: the shortest digits, with an exponent below 1e-4 and from a million on."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    number = Decimal(repr(value)).normalize()
    if number and not -4 <= number.adjusted() < _EXPONENT_FROM:
        return f"{number.scaleb(-number.adjusted()):f}e{number.adjusted():+03d}"
    return f"{number:f}"


def plain_text(value: Any) -> str:
    """A parameter's value without quotes, as Modelfiles write it."""
    if value is None:
        return "<nil>"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    return value if isinstance(value, str) else str(value)


def values_of(value: Any) -> list[Any]:
    """A parameter's values: the items of a list, or itself."""
    return value if isinstance(value, list) else [value]
