"""Hyperparameters from the metadata of a GGUF file, read once and checked before a weight is touched.

Keys are those of the GGUF specification, "{architecture}.attention.head_count" and so on; a missing or
impossible one is an UnsupportedModelError that names it.
"""

from __future__ import annotations

import math
from typing import Any

from ollamapy._core import GGUFFile
from ollamapy.types import UnsupportedModelError

# Larger values than any model has; they keep products of hyperparameters far from overflow.
MOST_LAYERS = 4096
MOST_WIDTH = 1 << 20
MOST_CONTEXT = 1 << 27


class Metadata:
    """Typed access to the keys of one architecture."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        name = file.get("general.architecture")
        if not isinstance(name, str):
            raise UnsupportedModelError("general.architecture is missing")
        self.architecture = name

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        return self.file.get(self.key(name)) is not None

    def integer(self, name: str, default: int | None = None, low: int = 1, high: int = MOST_WIDTH) -> int:
        """An integer, or an array with one value per layer that are all the same."""
        value = self._value(name, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if isinstance(value, list):
            raise UnsupportedModelError(f"{self.key(name)} differs between layers, which is not supported")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise UnsupportedModelError(f"{self.key(name)} is {value!r}, not an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number that is not negative."""
        value = self._value(name, default)
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not valid or not math.isfinite(value) or value < 0:
            raise UnsupportedModelError(f"{self.key(name)} is {value!r}, not a number from 0")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.number(name, default)
        if value == 0:
            raise UnsupportedModelError(f"{self.key(name)} is 0")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise UnsupportedModelError(f"{self.key(name)} is {value!r}, not a string")
        return value

    def refuse(self, name: str, allowed: Any) -> None:
        """Refuse a file that sets a key to something else than allowed: we would ignore it in silence."""
        value = self.file.get(self.key(name), allowed)
        if value != allowed:
            raise UnsupportedModelError(f"{self.key(name)} {value!r} is not supported")

    def _value(self, name: str, default: Any) -> Any:
        value = self.file.get(self.key(name), default)
        if value is None:
            raise UnsupportedModelError(f"{self.key(name)} is missing")
        return value


def rope_linear_scale(metadata: Metadata) -> float:
    """The divisor of positions. Types other than "linear" change more than that and are refused by name."""
    kind = metadata.text("rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise UnsupportedModelError(f"{metadata.key('rope.scaling.type')} '{kind}' is not supported")
    metadata.refuse("rope.scaling.attn_factor", 1.0)
    # Files of 2023 have the older name; 0 stands for none.
    old = metadata.number("rope.scale_linear", 1.0)
    return metadata.number("rope.scaling.factor", old) or 1.0
