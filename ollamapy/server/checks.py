"""What the native dialect refuses before a model is loaded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import orjson

from ollamapy.server.models import ServedModel
from ollamapy.types import RequestError

_THINK_LEVELS = ("low", "medium", "high", "max")
MOST_LOGPROBS = 20


def check_think_value(value: Any) -> None:
    """Raises RequestError for a value of `think` that is none."""
    levels = ", ".join(f'"{level}"' for level in ("high", "medium", "low", "max"))
    if value is not None and not isinstance(value, (bool, str)):
        raise RequestError(f"think must be a boolean or string ({levels}, true, or false)")
    if isinstance(value, str) and value not in _THINK_LEVELS:
        asked = orjson.dumps(value).decode()
        raise RequestError(f"invalid think value: {asked} (must be {levels}, true, or false)")


def check_think(value: Any, model: ServedModel, relax: bool = False) -> bool | str | None:
    """`think`: a model that can, does when nothing is said; None when it cannot.

    Raises RequestError for a value that is none, and for a model that cannot think unless relax.
    """
    check_think_value(value)
    if value is None:
        return True if model.can("thinking") else None
    if value is False:
        return False
    if not model.can("thinking"):
        if relax:
            return None
        raise RequestError(f'"{model.asked}" does not support thinking')
    return value if isinstance(value, str) else True


def check_completion(model: ServedModel, verb: str) -> None:
    """Raises RequestError for a model that only embeds."""
    if not model.can("completion"):
        raise RequestError(f'"{model.asked}" does not support {verb}')


def check_capability(model: ServedModel, capability: str) -> None:
    if not model.can(capability):
        raise RequestError(f"{model.stored.name.full} does not support {capability}")


def is_base64(text: str) -> bool:
    """Whether a text is base64, which line breaks may cut as mail does."""
    try:
        base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def check_images(images: Iterable[str]) -> None:
    """Raises RequestError for text that is no base64."""
    if not all(is_base64(image) for image in images):
        raise RequestError("illegal base64 data in images")


def check_vision(images: int, model: ServedModel) -> None:
    """Raises RequestError for images that a model would have to look at and cannot."""
    if images and not model.can("vision"):
        raise RequestError(f"{model.stored.name.full} does not support images")


def logprob_count(logprobs: bool, top: int) -> int:
    """How many alternatives each token reports, -1: no logprobs. Raises RequestError."""
    if not 0 <= top <= MOST_LOGPROBS:
        raise RequestError(f"top_logprobs must be between 0 and {MOST_LOGPROBS}")
    return top if logprobs else -1
