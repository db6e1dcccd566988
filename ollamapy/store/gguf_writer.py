"""Writes GGUF version 3 files (format: ggml's docs/gguf.md): header, metadata, tensor table, aligned data."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 32
_VERSION = 3

ValueType = Literal["u32", "i32", "f32", "bool", "string", "strings", "i32s", "f32s"]

_STRING, _ARRAY = 8, 9
_SCALARS: dict[ValueType, tuple[int, str]] = {
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
}
_ARRAYS: dict[ValueType, tuple[int, str]] = {"i32s": (5, "<i4"), "f32s": (6, "<f4")}
_TENSOR_TYPES: dict[str, tuple[int, DTypeLike, int]] = {"F32": (0, "<f4", 4), "F16": (1, "<f2", 2)}


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written; load returns its values in NumPy's order (the contiguous dimension last)."""

    name: str
    shape: tuple[int, ...]  # NumPy's order
    type: Literal["F32", "F16"]
    load: Callable[[], NDArray[np.float32]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _TENSOR_TYPES[self.type][2]


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(kind: ValueType, value: object) -> bytes:
    if kind == "string":
        assert isinstance(value, str)
        return struct.pack("<I", _STRING) + _string(value)
    if kind == "strings":
        assert isinstance(value, Sequence)
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_string(item) for item in value)
    if kind in _ARRAYS:
        assert isinstance(value, Sequence)
        number, dtype = _ARRAYS[kind]
        return struct.pack("<IIQ", _ARRAY, number, len(value)) + np.asarray(value, dtype=dtype).tobytes()
    number, layout = _SCALARS[kind]
    return struct.pack("<I", number) + struct.pack(layout, value)


def _padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)


def gguf_chunks(
    metadata: Sequence[tuple[str, ValueType, object]], tensors: Sequence[Tensor]
) -> Iterator[bytes]:
    """The bytes of a GGUF file, a tensor at a time; values are rounded to the nearest of the tensor's type.

    Raises ValueError when a tensor's values do not have its shape.
    """
    head = bytearray(b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata)))
    for key, kind, value in metadata:
        head += _string(key) + _value(kind, value)
    offset = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))  # the file names the contiguous dimension first
        head += _string(tensor.name)
        head += struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", _TENSOR_TYPES[tensor.type][0], offset)
        offset += tensor.nbytes + len(_padding(tensor.nbytes))
    yield bytes(head) + _padding(len(head))
    for tensor in tensors:
        values = tensor.load()
        if values.shape != tensor.shape:
            raise ValueError(f"tensor {tensor.name}: shape {values.shape} is not {tensor.shape}")
        data = np.ascontiguousarray(values, dtype=_TENSOR_TYPES[tensor.type][1]).tobytes()
        yield data
        yield _padding(len(data))
