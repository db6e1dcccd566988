"""Reads safetensors files: 8 bytes with the length of a JSON header, the header, the tensors' bytes.

Format: huggingface/safetensors, README "Format". Values come as float32, a few rows at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy.store.errors import ConversionError

F32 = NDArray[np.float32]

_MOST_HEADER = 100 << 20  # bytes; the format's own limit
_BLOCK = 4 << 20  # values read at a time
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True)
class Source:
    """A tensor of a file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file

    def check_type(self) -> None:
        """Raises ConversionError for values that are no floats we read."""
        if self.dtype != "BF16" and self.dtype not in _FLOATS:
            raise ConversionError(f"tensor {self.name} has type {self.dtype}, which cannot be converted")

    def rows(self, most: int = _BLOCK) -> Iterator[F32]:
        """The values in order, whole rows of the first dimension, about `most` values at a time.

        Raises ConversionError when the file ends early.
        """
        count = self.shape[0] if self.shape else 1
        width = math.prod(self.shape[1:])
        step = max(1, most // max(width, 1))
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for first in range(0, count, step):
                shape = (min(step, count - first), *self.shape[1:]) if self.shape else ()
                data = file.read(math.prod(shape) * _SIZES[self.dtype])
                if len(data) != math.prod(shape) * _SIZES[self.dtype]:
                    raise ConversionError(f"tensor {self.name} ends beyond its file")
                yield self._decode(data).reshape(shape)

    def whole(self) -> F32:
        return np.concatenate(list(self.rows())) if self.shape else next(self.rows())

    def _decode(self, data: bytes) -> F32:
        if self.dtype == "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        return np.frombuffer(data, _FLOATS[self.dtype]).astype(np.float32)


def _integers(value: Any) -> list[int] | None:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return None
    return value


def read_index(path: Path, shown: str) -> dict[str, Source]:
    """The tensors of a file. shown is the name that messages give it.

    Raises ConversionError for a file that does not follow the format.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if length > min(size - 8, _MOST_HEADER) or size < 8:
            raise ConversionError(f"{shown} is no safetensors file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ConversionError(f"{shown} is no safetensors file") from None
    if not isinstance(header, dict):
        raise ConversionError(f"{shown} is no safetensors file")
    header.pop("__metadata__", None)
    return {name: _source(path, shown, name, entry, 8 + length, size) for name, entry in header.items()}


def _source(path: Path, shown: str, name: str, entry: Any, start: int, size: int) -> Source:
    if not isinstance(entry, dict):
        raise ConversionError(f"{shown}: tensor {name} has no description")
    shape, offsets = _integers(entry.get("shape")), _integers(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise ConversionError(f"{shown}: tensor {name} has no shape or no place")
    dtype = entry.get("dtype")
    if dtype not in _SIZES:
        raise ConversionError(f"{shown}: tensor {name} has an unknown type {dtype}")
    if offsets[1] - offsets[0] != math.prod(shape) * _SIZES[dtype] or start + offsets[1] > size:
        raise ConversionError(f"{shown}: tensor {name} does not have the bytes of its shape")
    return Source(path, name, dtype, tuple(shape), start + offsets[0])


def read_tensors(files: Mapping[str, Path]) -> dict[str, Source]:
    """The tensors of all safetensors files at the top of a model folder, by name.

    Raises ConversionError, also for a tensor that two files have and for shards that an index names and that
    are not there.
    """
    found: dict[str, Source] = {}
    for shown in sorted(name for name in files if name.endswith(".safetensors") and "/" not in name):
        for name, source in read_index(files[shown], shown).items():
            if name in found:
                raise ConversionError(f"tensor {name} is in two files")
            found[name] = source
    if not found:
        raise ConversionError("there is no safetensors file")
    for name, shard in _weight_map(files).items():
        if name not in found:
            raise ConversionError(f"tensor {name} is missing, which {shard} should have")
    return found


def _weight_map(files: Mapping[str, Path]) -> dict[str, str]:
    path = files.get("model.safetensors.index.json")
    if path is None:
        return {}
    try:
        value = json.loads(path.read_bytes()).get("weight_map", {})
    except (ValueError, AttributeError, RecursionError):
        raise ConversionError("model.safetensors.index.json cannot be read") from None
    return value if isinstance(value, dict) else {}
