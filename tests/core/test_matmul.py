"""The matrix product kernels: packing, the defined arithmetic, one row one result, extremes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from ollamapy import _core

Matrix = _core._PackedMatrix
PANEL = Matrix.PANEL_ROWS
ISAS = _core.available_isas()
FLOAT_TYPES = [Type.F32, Type.F16, Type.BF16]
BLOCK_TYPES = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
K_TYPES = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]
QUANTIZED = BLOCK_TYPES + K_TYPES
ALL_TYPES = FLOAT_TYPES + QUANTIZED

# Byte offsets of the f16 scale and of the f16 minimum in a block of the file.
D_AT = dict.fromkeys(BLOCK_TYPES, 0) | {
    Type.Q2_K: 80,
    Type.Q3_K: 108,
    Type.Q4_K: 0,
    Type.Q5_K: 0,
    Type.Q6_K: 208,
}
M_AT = {Type.Q4_1: 2, Type.Q5_1: 2, Type.Q2_K: 82, Type.Q4_K: 2, Type.Q5_K: 2}

each_isa = pytest.mark.parametrize("isa", ISAS)


def each_type(types: list[Type]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", types, ids=lambda kind: kind.name)


def put_f16(blocks: NDArray[np.uint8], at: int, values: object) -> None:
    shape = (*blocks.shape[:-1], 1)
    blocks[..., at : at + 2] = np.broadcast_to(np.asarray(values, np.float16), shape).copy().view(np.uint8)


def random_weights(kind: Type, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes in every field but the f16 scales: [rows, bytes of a row]."""
    rng = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind in FLOAT_TYPES:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        return np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8).reshape(rows, -1)
    blocks = rng.integers(0, 256, (rows, cols // block, size), dtype=np.uint8)
    put_f16(blocks, D_AT[kind], rng.uniform(-0.02, 0.02, (rows, cols // block, 1)))
    if kind in M_AT:
        put_f16(blocks, M_AT[kind], rng.uniform(-0.1, 0.1, (rows, cols // block, 1)))
    return blocks.reshape(rows, -1)


def dequantize(kind: Type, weights: NDArray[np.uint8]) -> NDArray[np.float32]:
    if kind == Type.F32:
        return weights.view(np.float32)
    if kind == Type.F16:
        return weights.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(weights, kind)


def random_rows(m: int, cols: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((m, cols)).astype(np.float32)


def pack(kind: Type, weights: NDArray[np.uint8], cols: int, rows_per_call: int = 0) -> _core._PackedMatrix:
    return Matrix(int(kind), weights.reshape(-1), len(weights), cols, rows_per_call)


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def columns(kind: Type) -> int:
    return 768 if kind in K_TYPES else 160 if kind in BLOCK_TYPES else 77


# ---- The arithmetic in NumPy ---------------------------------------------------------------------


def fma(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """a * b + c rounded once: in float64 the product is exact and the sum is rounded to odd."""
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = np.asarray(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)
    as_int = total.view(np.int64)
    nudge = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.where((error != 0) & (as_int % 2 == 0), as_int + nudge, as_int)
    return odd.view(np.float64).astype(np.float32)


def round_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the 11 bits of an f16, of any exponent."""
    fraction, exponent = np.frexp(scale)  # exact, and so is what follows but for rint
    return np.ldexp(np.rint(fraction * 2048), exponent - 11).astype(np.float32)


def quantize_rows(
    x: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """(q [m, blocks, 32], scale [m, blocks], scale * sum [m, blocks])."""
    blocks = x.reshape(len(x), -1, 32)
    top = np.abs(blocks).max(axis=-1)
    scale = np.where(top < 2.0**-100, np.float32(0), round_scale(top / np.float32(127)))
    with np.errstate(divide="ignore"):
        inverse = np.where(top < 2.0**-100, np.float32(0), np.float32(127) / top).astype(np.float32)
    q = np.rint(blocks * inverse[..., None]).astype(np.int64)
    return q, scale, scale * q.sum(axis=-1).astype(np.float32)


def probe(kind: Type, weights: NDArray[np.uint8], d: float, m: float) -> NDArray[np.int64]:
    """Integers of the format, [rows, blocks, 32]: the gguf package dequantizes with other f16 scales."""
    blocks = weights.reshape(len(weights), -1, gguf.GGML_QUANT_SIZES[kind][1]).copy()
    put_f16(blocks, D_AT[kind], d)
    if kind in M_AT:
        put_f16(blocks, M_AT[kind], m)
    values = gguf.quants.dequantize(blocks.reshape(len(weights), -1), kind)
    return np.rint(values).astype(np.int64).reshape(len(weights), -1, 32)


def f16_field(kind: Type, weights: NDArray[np.uint8], at: int) -> NDArray[np.float32]:
    """An f16 field for every 32 columns: [rows, blocks]."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = weights.reshape(len(weights), -1, size)
    field = np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)
    return field.repeat(block // 32, axis=1)


def k_scales(kind: Type, weights: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The 6-bit scales of Q4_K and Q5_K: with every quant equal to 1 the blocks show them. [rows, blocks]."""
    blocks = weights.reshape(len(weights), -1, gguf.GGML_QUANT_SIZES[kind][1]).copy()
    blocks[..., 16:] = 0x11
    if kind == Type.Q5_K:
        blocks[..., 16:48] = 0
    return probe(kind, blocks.reshape(len(weights), -1), 1, 0)[..., 0]


def emulate(kind: Type, weights: NDArray[np.uint8], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product as matmul_portable.cpp defines it, one output at a time over blocks ascending."""
    acc = np.zeros((len(x), len(weights)), np.float32)
    if kind in FLOAT_TYPES:
        dense = dequantize(kind, weights)
        for k in range(x.shape[1]):
            acc = fma(dense[None, :, k], x[:, None, k], acc)
        return acc
    q, scale, scaled_sum = quantize_rows(x)
    d = f16_field(kind, weights, D_AT[kind])
    integers = probe(kind, weights, 1, 0)
    if kind in (Type.Q4_K, Type.Q5_K):
        sub = k_scales(kind, weights)
        integers //= np.maximum(sub, 1)[..., None]
        d = d * sub.astype(np.float32)
    for b in range(q.shape[1]):
        dots = q[:, b] @ integers[:, b].T
        acc = fma(d[None, :, b] * scale[:, None, b], dots.astype(np.float32), acc)
        if kind not in M_AT:
            continue
        minimum = f16_field(kind, weights, M_AT[kind])[None, :, b]
        if kind == Type.Q2_K:
            steps = -probe(kind, weights, 0, 1)[:, b]
            acc = fma(-(minimum * scale[:, None, b]), (q[:, b] @ steps.T).astype(np.float32), acc)
        elif kind in (Type.Q4_K, Type.Q5_K):
            steps = -probe(kind, weights, 0, 1)[None, :, b, 0].astype(np.float32)
            acc = fma(-(minimum * steps), scaled_sum[:, None, b], acc)
        else:
            acc = fma(minimum, scaled_sum[:, None, b], acc)
    return acc


# ---- Packing -------------------------------------------------------------------------------------


@each_type(ALL_TYPES)
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_rows_come_back_as_the_dequantizer_gives_them(kind: Type, rows: int) -> None:
    cols = columns(kind)
    weights = random_weights(kind, rows, cols)
    expected = dequantize(kind, weights)
    for rows_per_call in (0, 16):
        packed = pack(kind, weights, cols, rows_per_call)
        unpacked = np.stack([packed.row(row) for row in range(rows)])
        assert np.array_equal(bits(unpacked), bits(expected))


@each_type(ALL_TYPES)
def test_packing_grows_no_more_than_5_percent(kind: Type) -> None:
    weights = random_weights(kind, 64, 1024)
    assert weights.nbytes <= pack(kind, weights, 1024).nbytes <= 1.05 * weights.nbytes


def test_sizes_that_do_not_fit_are_refused() -> None:
    weights = np.zeros(18 * 4, np.uint8)
    for type_id, rows, cols in [
        (int(Type.Q4_0), 2, 33),
        (int(Type.Q4_0), 2, 32),
        (int(Type.Q4_K), 1, 128),
        (int(Type.Q4_0), 0, 32),
        (int(Type.Q4_0), -1, 32),
        (int(Type.Q4_0), 2**40, 32),
        (99, 1, 32),
    ]:
        with pytest.raises(ValueError):
            Matrix(type_id, weights, rows, cols)
    packed = Matrix(int(Type.Q4_0), weights, 4, 32)
    with pytest.raises(ValueError):
        packed.matmul(np.zeros((1, 31), np.float32), "portable")
    with pytest.raises(ValueError):
        packed.matmul(np.zeros((1, 32), np.float32), "altivec")
    with pytest.raises(IndexError):
        packed.row(4)


# ---- Products ------------------------------------------------------------------------------------


@each_type(ALL_TYPES)
def test_portable_equals_the_definition(kind: Type) -> None:
    cols = columns(kind)
    weights = random_weights(kind, 21, cols)
    x = random_rows(PANEL + 2, cols)
    y = pack(kind, weights, cols).matmul(x, "portable")
    assert np.array_equal(bits(y), bits(emulate(kind, weights, x)))


@each_type(QUANTIZED)
def test_close_to_float64(kind: Type) -> None:
    """The error is that of rounding activations to 8 bits: uniform within half a step of every block."""
    cols = 2048
    weights = random_weights(kind, 64, cols)
    x = random_rows(8, cols)
    dense = dequantize(kind, weights).astype(np.float64)
    y = pack(kind, weights, cols).matmul(x, ISAS[0])
    step = (np.abs(x.reshape(8, -1, 32)).max(axis=-1) / 127).astype(np.float64)
    expected = np.sqrt((step**2 / 12) @ (dense**2).reshape(64, -1, 32).sum(axis=-1).T)
    error = y - x.astype(np.float64) @ dense.T
    ratio = np.sqrt((error**2).mean()) / np.sqrt((expected**2).mean())
    assert 0.8 < ratio < 1.2
    assert np.all(np.abs(error) < 6 * expected)


@each_type(FLOAT_TYPES)
def test_float_types_are_close_to_float64(kind: Type) -> None:
    weights = random_weights(kind, 40, 300)
    x = random_rows(5, 300)
    dense = dequantize(kind, weights).astype(np.float64)
    y = pack(kind, weights, 300).matmul(x, ISAS[0])
    bound = 300 * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(dense).T)
    assert np.all(np.abs(y - x.astype(np.float64) @ dense.T) <= bound)


@each_isa
@each_type(ALL_TYPES)
def test_instruction_sets_agree_with_portable(isa: str, kind: Type) -> None:
    cols = columns(kind)
    rng = np.random.default_rng(5)
    for rows, m in [(1, 1), (16, 3), (37, 2 * PANEL + 5), (64, 64)]:
        packed = pack(kind, random_weights(kind, rows, cols, seed=rows), cols)
        x = random_rows(m, cols, seed=m) * np.exp(rng.uniform(-9, 9, (m, cols))).astype(np.float32)
        bias = rng.standard_normal(rows).astype(np.float32)
        residual = rng.standard_normal((m, rows)).astype(np.float32)
        plain = packed.matmul(x, "portable")
        assert np.array_equal(bits(packed.matmul(x, isa)), bits(plain))
        both = packed.matmul(x, isa, bias=bias, residual=residual)
        assert np.array_equal(bits(both), bits((plain + bias) + residual))
        assert np.array_equal(bits(packed.matmul(x, isa, residual=residual)), bits(plain + residual))


@each_isa
@each_type(ALL_TYPES)
def test_one_row_one_result(isa: str, kind: Type) -> None:
    """Neither the number of rows nor the cut of the work shows in a row's bits."""
    cols = columns(kind)
    packed = pack(kind, random_weights(kind, 53, cols), cols)
    x = random_rows(64, cols)
    alone = bits(np.concatenate([packed.matmul(x[row : row + 1], isa) for row in range(64)]))
    for m in range(1, 65):
        assert np.array_equal(bits(packed.matmul(x[:m], isa)), alone[:m])
    for tile_step in (1, 2, 3):
        for row_step in (PANEL, 2 * PANEL, 0):
            y = packed.matmul(x, isa, tile_step=tile_step, row_step=row_step)
            assert np.array_equal(bits(y), alone)


# ---- Extremes ------------------------------------------------------------------------------------


@each_isa
@each_type(QUANTIZED)
@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF])
def test_extreme_weights_and_activations(isa: str, kind: Type, fill: int) -> None:
    """Quants and scales at an end of their range against activations of +-127: nothing saturates."""
    cols = 256
    weights = np.full(
        (16, gguf.GGML_QUANT_SIZES[kind][1] * cols // gguf.GGML_QUANT_SIZES[kind][0]), fill, np.uint8
    )
    blocks = weights.reshape(16, -1, gguf.GGML_QUANT_SIZES[kind][1])
    put_f16(blocks, D_AT[kind], 1)
    if kind in M_AT:
        put_f16(blocks, M_AT[kind], 1)
    x = np.full((5, cols), 127, np.float32)
    x[1] = -127
    x[2, ::2] = -127
    x[3, 1::2] = -127
    x[4, :128] = -127
    packed = pack(kind, weights, cols)
    exact = x.astype(np.float64) @ dequantize(kind, weights).astype(np.float64).T
    y = packed.matmul(x, isa)
    assert np.array_equal(bits(y), bits(packed.matmul(x, "portable")))
    assert np.allclose(y, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


@each_isa
def test_rounding_is_half_to_even(isa: str) -> None:
    """A matrix that copies its columns shows the quantized activations."""
    identity = gguf.quants.quantize(127 * np.eye(32, dtype=np.float32), Type.Q8_0)
    halves = np.arange(-16, 16, dtype=np.float32) + np.float32(0.5)
    halves[0] = 127
    y = pack(Type.Q8_0, identity, 32).matmul(halves[None], isa)
    assert np.array_equal(y[0], 127 * np.rint(halves))


@each_isa
def test_rows_are_rounded_as_ggml_rounds_them(isa: str) -> None:
    """A product with the identity shows the values of ggml's Q8_0 blocks, as the gguf package makes them."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((64, 32)) * np.exp(rng.uniform(-3, 9, (64, 1)))).astype(np.float32)
    identity = gguf.quants.quantize(np.eye(32, dtype=np.float32) * 127, Type.Q8_0)  # of scale 1
    y = pack(Type.Q8_0, identity, 32).matmul(x, isa) / 127
    blocks = gguf.quants.quantize(x, Type.Q8_0)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    assert np.array_equal(np.rint(y / scales), blocks[:, 2:].view(np.int8))
    assert np.allclose(y, gguf.quants.dequantize(blocks, Type.Q8_0), rtol=1e-6, atol=0)


@each_isa
@each_type([Type.Q4_1, Type.Q8_0, Type.Q2_K, Type.Q4_K, Type.Q6_K])
def test_zero_tiny_and_non_finite_activations(isa: str, kind: Type) -> None:
    cols = 256
    packed = pack(kind, random_weights(kind, 20, cols), cols)
    x = random_rows(6, cols)
    x[0] = 0
    x[1] = 2.0**-101
    x[2, 7] = np.nan
    x[3, 9] = np.inf
    x[4] *= np.float32(2.0**-95)
    with np.errstate(invalid="ignore"):
        y = packed.matmul(x, isa)
    assert np.all(y[:2] == 0)
    assert np.all(np.isnan(y[2:4]))
    assert np.array_equal(bits(y[4:]), bits(packed.matmul(x, "portable")[4:]))
    assert np.array_equal(bits(y[5]), bits(packed.matmul(x[5:], isa)[0]))
    assert np.all(y[4] != 0)
