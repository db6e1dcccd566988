"""The JSON files of a model folder, and config.json with typed access to its fields."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollamapy.store.errors import ConversionError

# Larger values than any model has: what is made of them stays small.
MOST_LAYERS = 4096
MOST_HEAD = 1 << 16
_MOST_JSON = 256 << 20  # bytes; tokenizer.json is the largest

Files = Mapping[str, Path]
"""the files of a model folder by their path inside it, with slashes"""


def folder_files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def read_json(files: Files, name: str) -> Any:
    """The value of a JSON file. Raises ConversionError when it is missing or no JSON."""
    path = files.get(name)
    if path is None:
        raise ConversionError(f"{name} is missing")
    if path.stat().st_size > _MOST_JSON:
        raise ConversionError(f"{name} is too large")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{name} cannot be read: {error}") from None


def read_object(files: Files, name: str) -> dict[str, Any]:
    """A JSON object; empty when there is no such file. Raises ConversionError."""
    if name not in files:
        return {}
    value = read_json(files, name)
    if not isinstance(value, dict):
        raise ConversionError(f"{name} is not a JSON object")
    return value


class Config:
    """config.json, or an object in it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def read(cls, files: Files) -> Config:
        """Raises ConversionError."""
        value = read_json(files, "config.json")
        if not isinstance(value, dict):
            raise ConversionError("config.json is not a JSON object")
        return cls(value)

    @property
    def architecture(self) -> str:
        """The class that the model was trained as. Raises ConversionError."""
        names = self.values.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise ConversionError("unknown architecture")
        return names[0]

    def section(self, name: str) -> Config:
        value = self.values.get(name)
        return Config(value if isinstance(value, dict) else {})

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def integer(self, name: str, default: int | None = None, most: int = (1 << 31) - 1) -> int:
        """Raises ConversionError for what is missing without a default, or no integer from 0 to most."""
        value = self.values.get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 <= value <= most:
            raise ConversionError(f"config.json: {name} is {value!r}, not an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Raises ConversionError for what is missing without a default, or no finite number."""
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConversionError(f"config.json: {name} is {value!r}, not a number")
        return float(value)

    def refuse(self, name: str, *allowed: Any) -> None:
        """Raises ConversionError for a field that would change the result: nothing we do not run converts."""
        value = self.values.get(name)
        if value is not None and value not in allowed:
            raise ConversionError(f"config.json: {name} {value!r} is not supported")

    def rope(self) -> Config:
        """What it says of rotary embeddings: rope_parameters, or the older rope_scaling beside rope_theta."""
        values = dict(self.section("rope_scaling").values)
        if self.get("rope_theta") is not None:
            values["rope_theta"] = self.get("rope_theta")
        values.update(self.section("rope_parameters").values)
        if "rope_type" not in values and "type" in values:
            values["rope_type"] = values["type"]
        return Config(values)
