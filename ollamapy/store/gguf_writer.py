"""Writes GGUF version 3 files (format: ggml's docs/gguf.md): header, metadata, tensor table, aligned data."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 32
_VERSION = 3

ValueType = Literal["u32", "i32", "f32", "bool", "string", "strings", "i32s", "f32s", "bools"]
Metadata = list[tuple[str, ValueType, object]]
TensorType = Literal["F32", "F16", "BF16"]
F32 = NDArray[np.float32]

_STRING, _ARRAY = 8, 9
_SCALARS: dict[ValueType, tuple[int, str]] = {
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
}
_ARRAYS: dict[ValueType, tuple[int, str]] = {"i32s": (5, "<i4"), "f32s": (6, "<f4"), "bools": (7, "?")}
_TENSOR_TYPES: dict[TensorType, tuple[int, int]] = {"F32": (0, 4), "F16": (1, 2), "BF16": (30, 2)}


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written; blocks returns its values in NumPy's order (the contiguous dimension last), in
    pieces of any size."""

    name: str
    shape: tuple[int, ...]  # NumPy's order
    type: TensorType
    blocks: Callable[[], Iterable[F32]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _TENSOR_TYPES[self.type][1]


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


def encode_values(values: F32, kind: TensorType) -> bytes:
    """float32 values in a tensor's type, rounded to the nearest, ties to even."""
    if kind == "BF16":
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        quiet = (bits >> 16) | 0x40  # a NaN stays one
        return np.where(np.isnan(values), quiet, rounded).astype("<u2").tobytes()
    return np.ascontiguousarray(values, dtype="<f4" if kind == "F32" else "<f2").tobytes()


def gguf_chunks(
    metadata: Sequence[tuple[str, ValueType, object]], tensors: Sequence[Tensor]
) -> Iterator[bytes]:
    """The bytes of a GGUF file, a tensor's block at a time.

    Raises ValueError when a tensor's values are not as many as its shape says.
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
        count = 0
        for values in tensor.blocks():
            count += values.size
            yield encode_values(values, tensor.type)
        if count != math.prod(tensor.shape):
            raise ValueError(f"tensor {tensor.name}: {count} values for the shape {tensor.shape}")
        yield _padding(tensor.nbytes)
