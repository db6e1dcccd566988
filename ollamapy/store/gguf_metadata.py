"""The metadata of a GGUF as bytes, to be written into another file. Format: ggml's docs/gguf.md."""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

from ollamapy._core import GGUFFile

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of scalars, by value type
_STRING, _ARRAY = 8, 9
_COUNTS = 24  # bytes before the first key in version 2 and 3


def copied_metadata(path: Path, file: GGUFFile, drop: Collection[str]) -> tuple[int, bytes]:
    """How many key-value pairs are kept, and their bytes. The file has been checked when it was opened: what
    is walked here is in order."""
    keys = file.keys()
    first = min((tensor.offset for tensor in file.tensors()), default=file.size)
    with path.open("rb") as source:
        data = source.read(first)
    kept = bytearray()
    count = 0
    position = _COUNTS
    for key in keys:
        start = position
        position = _after_string(data, position)
        (kind,) = struct.unpack_from("<I", data, position)
        position = _after_value(data, position + 4, kind)
        if key not in drop:
            kept += data[start:position]
            count += 1
    return count, bytes(kept)


def _after_string(data: bytes, position: int) -> int:
    (length,) = struct.unpack_from("<Q", data, position)
    return int(position + 8 + length)


def _after_value(data: bytes, position: int, kind: int) -> int:
    if kind == _STRING:
        return _after_string(data, position)
    if kind != _ARRAY:
        return position + _SIZES[kind]
    item, count = struct.unpack_from("<IQ", data, position)
    position += 12
    if item in _SIZES:
        return int(position + _SIZES[item] * count)
    for _ in range(count):
        position = _after_value(data, position, item)
    return position
