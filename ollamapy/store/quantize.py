"""Quantize a GGUF: which type each tensor gets, and the file that results.

The choice of types is llama.cpp's (llama-quantize without an importance matrix), so that a model quantized here is as
large and as good as one quantized there.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ollamapy._core import BLOCK_TYPES, GGUFFile, TensorInfo, dequantize, quantize
from ollamapy.store.gguf_metadata import copied_metadata
from ollamapy.types import RequestError

# number of general.file_type, type of most tensors
FILE_TYPES = {
    "F32": (0, "F32"), "F16": (1, "F16"), "BF16": (32, "BF16"),
    "Q4_0": (2, "Q4_0"), "Q4_1": (3, "Q4_1"), "Q5_0": (8, "Q5_0"), "Q5_1": (9, "Q5_1"), "Q8_0": (7, "Q8_0"),
    "Q2_K": (10, "Q2_K"), "Q3_K_S": (11, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_L": (13, "Q3_K"),
    "Q4_K_S": (14, "Q4_K"), "Q4_K_M": (15, "Q4_K"), "Q5_K_S": (16, "Q5_K"), "Q5_K_M": (17, "Q5_K"),
    "Q6_K": (18, "Q6_K"),
}  # fmt: skip
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # for odd widths
_NEVER = ("_norm.weight", "position_embd", "token_types", "ffn_gate_inp.weight")
_SOURCES = ("F32", "F16", "BF16")
_OLLAMA = ("F32", "F16", "Q8_0", "Q4_K_S", "Q4_K_M")
_ALIGNMENT = 32
_QUANTIZATION_VERSION = 2
_CHUNK = 1 << 22  # values quantized at a time

Progress = Callable[[int, int], None]
"""completed and total bytes of the source's tensors"""


class QuantizeError(RequestError):
    """A type that we do not write, or a file that cannot be quantized."""


def file_type(text: str) -> str:
    """The name of a file type in any case. Raises QuantizeError that lists them."""
    name = text.upper()
    name = _ALIASES.get(name, name)
    if name not in FILE_TYPES:
        raise QuantizeError(
            f"unsupported quantization type {text.upper()} - supported types are {', '.join(FILE_TYPES)}"
        )
    return name


@dataclass(frozen=True)
class _Model:
    """What the choice depends on besides the tensor."""

    layers: int
    gqa: int  # query heads per KV head
    tied: bool  # the embedding is the output head too
    layers_with_v: int
    is_70b: bool

    @classmethod
    def of(cls, file: GGUFFile) -> _Model:
        architecture = file.get("general.architecture", "")

        def number(key: str, default: int) -> int:
            value = file.get(f"{architecture}.{key}", default)
            if isinstance(value, list):
                value = value[0] if value else default
            return value if isinstance(value, int) else default

        names = [tensor.name for tensor in file.tensors()]
        heads = number("attention.head_count", 1)
        layers = number("block_count", 0)
        gqa = heads // max(1, number("attention.head_count_kv", heads))
        return cls(
            layers=layers,
            gqa=gqa,
            tied="output.weight" not in names,
            layers_with_v=sum(".attn_v.weight" in name for name in names),
            is_70b=architecture == "llama"
            and layers == 80
            and heads != number("attention.head_count_kv", heads),
        )


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth and every third layer between are the ones that errors hurt most."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixed(name: str, target: str, kind: str, model: _Model) -> str:
    """The type of a tensor in a mixture of types."""
    layer = int(found[1]) if (found := re.match(r"blk\.(\d+)\.", name)) else 0
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return kind if kind == "Q8_0" else "Q6_K"
    if ".attn_v.weight" in name:
        return _value_type(layer, target, kind, model)
    if ".ffn_down.weight" in name:
        if target == "Q2_K":
            return "Q3_K"
        if target == "Q3_K_M":
            return "Q5_K" if layer < model.layers // 16 else "Q4_K"
        if target == "Q3_K_L":
            return "Q5_K"
        if target in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, model.layers):
            return "Q6_K"
        if target == "Q4_K_S" and layer < model.layers // 8:
            return "Q5_K"
    elif ".attn_output.weight" in name:
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(target, kind)
    elif ".attn_qkv.weight" in name:
        return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(target, kind)
    return kind


def _value_type(layer: int, target: str, kind: str, model: _Model) -> str:
    if target == "Q2_K":
        kind = "Q4_K" if model.gqa >= 4 else "Q3_K"
    elif target == "Q3_K_M":
        kind = "Q5_K" if layer < 2 else "Q4_K"
    elif target == "Q3_K_L":
        kind = "Q5_K"
    elif target in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, model.layers_with_v):
        kind = "Q6_K"
    elif target == "Q4_K_S" and layer < 4:
        kind = "Q5_K"
    if model.is_70b and kind in ("Q3_K", "Q4_K"):  # eight query heads share it: it is small and matters
        kind = "Q5_K"
    return kind


def tensor_type(tensor: TensorInfo, target: str, model: _Model) -> str:
    """The type of a tensor in a file of type `target`."""
    name = tensor.name
    if not name.endswith("weight") or len(tensor.shape) < 2 or any(part in name for part in _NEVER):
        return tensor.type
    kind = FILE_TYPES[target][1]
    if kind in _SOURCES:
        return kind
    kind = _mixed(name, target, kind, model)
    width = tensor.shape[0]
    if width % BLOCK_TYPES[kind][1]:
        kind = _FALLBACK.get(kind, kind)
        if width % BLOCK_TYPES[kind][1]:
            kind = "F16"
    return kind


def plan(file: GGUFFile, target: str) -> dict[str, str]:
    """The type of every tensor.

    Raises QuantizeError for a source that is quantized already, where Ollama raises it: for the types that it
    writes itself. The others are ours, and who asks for one of them gets it, with the errors of both.
    """
    model = _Model.of(file)
    for tensor in file.tensors():
        if tensor.type not in BLOCK_TYPES:
            raise QuantizeError(f"tensors of type {tensor.type} cannot be quantized")
        if tensor.type not in _SOURCES and target in _OLLAMA:
            raise QuantizeError("quantization is only supported for F16, BF16 and F32 models")
    return {tensor.name: tensor_type(tensor, target, model) for tensor in file.tensors()}


def _size(tensor: TensorInfo, kind: str) -> int:
    _, values, size = BLOCK_TYPES[kind]
    return int(math.prod(tensor.shape)) // values * size


def _padding(size: int) -> bytes:
    return bytes(-size % _ALIGNMENT)


def quantized(path: Path, target: str, threads: int = 0, progress: Progress | None = None) -> Iterator[bytes]:
    """The bytes of the quantized file, a piece at a time; pieces are made by several threads.

    Raises QuantizeError, also for weights that are not finite; GGUFError, OSError.
    """
    file = GGUFFile(str(path))
    types = plan(file, target)
    tensors = file.tensors()
    drop = ("general.file_type", "general.quantization_version", "general.alignment")
    count, metadata = copied_metadata(path, file, drop)
    added = [
        ("general.file_type", FILE_TYPES[target][0]),
        ("general.quantization_version", _QUANTIZATION_VERSION),
    ]
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count + len(added)) + metadata)
    for key, value in added:
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", 4, value)
    offset = 0
    for tensor in tensors:
        name = tensor.name.encode()
        head += struct.pack("<Q", len(name)) + name
        head += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", BLOCK_TYPES[types[tensor.name]][0], offset)
        size = _size(tensor, types[tensor.name])
        offset += size + len(_padding(size))
    yield bytes(head) + _padding(len(head))
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for tensor in tensors:
            yield from _converted(file, tensor, types[tensor.name], pool)
            yield _padding(_size(tensor, types[tensor.name]))
            done += tensor.nbytes
            if progress:
                progress(done, total)


def _converted(file: GGUFFile, tensor: TensorInfo, kind: str, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """A tensor's bytes in another type: rows in pieces, in order."""
    data = file.read(tensor.name)
    if kind == tensor.type:
        yield data.tobytes()
        return
    number = BLOCK_TYPES[kind][0]
    _, block, size = BLOCK_TYPES[tensor.type]
    width = tensor.shape[0]
    step = max(1, _CHUNK // width) * width

    def piece(start: int, count: int) -> NDArray[np.uint8]:
        values = dequantize(
            tensor.type_id, data[start // block * size : (start + count) // block * size], count
        )
        return quantize(number, values)

    values = math.prod(tensor.shape)
    pieces: list[Future[NDArray[np.uint8]]] = [
        pool.submit(piece, start, min(step, values - start)) for start in range(0, values, step)
    ]
    try:
        for future in pieces:
            yield future.result().tobytes()
    except ValueError as error:
        raise QuantizeError(f"tensor {tensor.name}: {error}") from None
    finally:
        for future in pieces:
            future.cancel()
