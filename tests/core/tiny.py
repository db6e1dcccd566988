"""Tiny random models as GGUF files, and the same models in NumPy float64."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class TinyWeights:
    """Named random matrices, written as F32 or quantized; `values` are what the file decodes to."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        self.rng = np.random.default_rng(seed)
        self.values: dict[str, Array] = {}
        self.writer = gguf.GGUFWriter(str(path), "llama")

    def add(self, name: str, *shape: int, scale: float = 0.3, kind: str = "F32", around: float = 0.0) -> None:
        """shape in NumPy's order: [outputs, inputs] for a linear layer."""
        data = (self.rng.standard_normal(shape) * scale + around).astype(np.float32)
        if kind == "F32":
            self.writer.add_tensor(name, data)
            self.values[name] = data.astype(np.float64)
            return
        type_ = gguf.GGMLQuantizationType[kind]
        raw = gguf.quants.quantize(data, type_)
        self.writer.add_tensor(name, raw, raw_dtype=type_)
        self.values[name] = gguf.quants.dequantize(raw, type_).astype(np.float64)

    def close(self) -> str:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return str(self.path)


def rms(x: Array, weight: Array | float, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope(x: Array, positions: NDArray[np.int64], base: float, pairing: str) -> Array:
    """x [rows, heads, dim]."""
    dim = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out = np.empty_like(x)
    if pairing == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        out[..., 0::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
    else:
        a, b = x[..., : dim // 2], x[..., dim // 2 :]
        out[..., : dim // 2], out[..., dim // 2 :] = a * cos - b * sin, a * sin + b * cos
    return out


def attention(
    q: Array, k: Array, v: Array, scale: float, window: int = 0, causal: bool = True, cap: float = 0.0
) -> Array:
    """q [rows, heads, dim], k and v [rows, kv_heads, dim] of one sequence from position 0; k and v are kept as f16."""
    k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)
    rows, heads, _ = q.shape
    group = heads // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    if cap:
        scores = cap * np.tanh(scores / cap)
    i, j = np.arange(rows)[:, None], np.arange(rows)[None]
    if causal:
        scores = np.where(j <= i, scores, -np.inf)
    if window:
        scores = np.where(j > i - window, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", p, v).reshape(rows, -1)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
