"""GGUF files packed by hand; everything may be wrong. Format: the GGUF specification (ggml/docs/gguf.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import gguf

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", U64: "<Q", I64: "<q", F32: "<f",
    F64: "<d", BOOL: "<B",
}  # fmt: skip


def string(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: bytes | str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def scalar(key: str, kind: int, value: Any) -> bytes:
    return entry(key, kind, struct.pack(SCALARS[kind], value))


def array(key: str, kind: int, count: int, items: bytes) -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + items)


def tensor(name: bytes | str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@dataclass
class Raw:
    """A file put together from packed parts; everything may be wrong."""

    metadata: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_metadata: int | None = None
    alignment: int = 32

    def prefix(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_metadata = len(self.metadata) if self.n_metadata is None else self.n_metadata
        return self.magic + struct.pack("<IQQ", self.version, n_tensors, n_metadata)

    def header(self) -> bytes:
        return self.prefix() + b"".join(self.metadata) + b"".join(self.tensors)

    def bytes(self) -> bytes:
        header = self.header()
        return header + b"\0" * (-len(header) % self.alignment) + self.data if self.tensors else header


def small() -> Raw:
    """A valid file with every kind of value and two tensors."""
    return Raw(
        metadata=[
            scalar("general.alignment", U32, 32),
            entry("general.name", STRING, string("small")),
            scalar("flag", BOOL, 1),
            scalar("ratio", F32, 0.5),
            array("numbers", I32, 3, struct.pack("<3i", -1, 2, 3)),
            array("words", STRING, 2, string("ab") + string("")),
            array("flags", BOOL, 2, b"\1\0"),
        ],
        tensors=[tensor("weight", (32, 2), gguf.GGMLQuantizationType.Q8_0, 0), tensor("bias", (2,), 0, 96)],
        data=bytes(range(68)) + b"\0" * 28 + struct.pack("<2f", 1.5, -2.0),
    )
