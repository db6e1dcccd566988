"""Block types decoded bit for bit as the `gguf` package decodes them."""

from __future__ import annotations

import warnings

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from ollamapy import _core

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0,
         Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]  # fmt: skip
WRITABLE = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
# Byte offsets of the f16 scales in a block.
SCALES = {
    Type.Q4_0: (0,), Type.Q4_1: (0, 2), Type.Q5_0: (0,), Type.Q5_1: (0, 2), Type.Q8_0: (0,),
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,),
}  # fmt: skip
HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x1234, 0x7BFF, 0xFBFF, 0x7C00,
     0xFC00, 0x7C01, 0x7E00, 0xFFFF],
    np.uint16,
)  # fmt: skip

each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)


def theirs(kind: Type, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinities and NaNs are meant
        if kind == Type.F32:
            return data.view(np.float32)
        return np.asarray(gguf.quants.dequantize(data, kind), np.float32).ravel()


def assert_same_bits(got: NDArray[np.float32], want: NDArray[np.float32]) -> None:
    """Equal bits, or NaN on both sides (the bits of a NaN are the CPU's business)."""
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    assert got.shape == want.shape and same.all(), (got[~same][:4], want[~same][:4])


def check(kind: Type, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """blocks [n, block_bytes]"""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    assert blocks.shape[1] == block_bytes
    data = np.ascontiguousarray(blocks).ravel()
    got = _core.dequantize(kind.value, data, len(blocks) * block_size)
    assert_same_bits(got, theirs(kind, data))
    return got


@each_type
def test_random_bytes(kind: Type) -> None:
    rng = np.random.default_rng(kind.value)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    got = check(kind, rng.integers(0, 256, (3000, block_bytes), np.uint8))
    assert len(np.unique(got)) > 1000


@pytest.mark.parametrize("kind", SCALES, ids=lambda kind: kind.name)
def test_extreme_scales(kind: Type) -> None:
    """Zeros, subnormals, the largest numbers, infinities and NaNs as scale and as minimum."""
    rng = np.random.default_rng(kind.value + 100)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    pairs = np.array([(a, b) for a in HALVES for b in HALVES], np.uint16)
    blocks = rng.integers(0, 256, (len(pairs), block_bytes), np.uint8)
    for column, at in enumerate(SCALES[kind]):
        blocks[:, at : at + 2] = pairs[:, column : column + 1].view(np.uint8)
    got = check(kind, blocks)
    assert np.isnan(got).any() and np.isinf(got).any() and (got == 0).any()


@pytest.mark.parametrize("kind", SCALES, ids=lambda kind: kind.name)
def test_every_byte_value_everywhere(kind: Type) -> None:
    """Each payload byte through all its values, the others few or all ones: no bit goes astray."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    scale = {at + i for at in SCALES[kind] for i in (0, 1)}
    for rest in (0x11, 255):
        for at in (i for i in range(block_bytes) if i not in scale):
            blocks = np.full((256, block_bytes), rest, np.uint8)
            blocks[:, at] = np.arange(256)
            for offset, half in zip(SCALES[kind], (0x3C01, 0x3801), strict=False):
                blocks[:, offset : offset + 2] = np.frombuffer(np.uint16(half).tobytes(), np.uint8)
            got = check(kind, blocks).reshape(256, -1)
            assert (got != got[0]).any()


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_what_the_package_quantized(kind: Type) -> None:
    rng = np.random.default_rng(5)
    for spread in (1e-9, 1e-3, 1.0, 300.0):
        values = (rng.normal(size=(16, 512)) * spread).astype(np.float32)
        values[0, :64] = 0
        packed = np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8).ravel()
        got = _core.dequantize(kind.value, packed, values.size)
        assert_same_bits(got, theirs(kind, packed))
        if spread == 1.0:  # and it resembles what went in
            assert np.abs(got - values.ravel()).max() < 0.5


def test_every_half() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    got = _core.dequantize(Type.F16.value, bits.view(np.uint8), 65536)
    assert_same_bits(got, bits.view(np.float16).astype(np.float32))
    assert np.isnan(got).sum() == 2 * 1023
    back = _core.f32_to_f16(got)
    nan = np.isnan(got)
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(back[nan].view(np.float16)).all()


def test_every_bf16() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    got = _core.dequantize(Type.BF16.value, bits.view(np.uint8), 65536)
    assert_same_bits(got, (bits.astype(np.uint32) << 16).view(np.float32))


def test_rounding_to_half() -> None:
    """Nearest, ties to even: around every half, at every tie, and at random."""
    halves = np.arange(0x7C00, dtype=np.uint16)
    exact = halves.view(np.float16).astype(np.float32)
    ties = (exact[:-1].astype(np.float64) + exact[1:]) / 2
    rng = np.random.default_rng(6)
    magnitudes = np.concatenate(
        [exact, ties, np.nextafter(ties.astype(np.float32), np.float32(0)),
         np.nextafter(ties.astype(np.float32), np.float32(np.inf)),
         [65504, 65519.996, 65520, 65536, 1e30, np.inf, 1e-45, 2.0**-25, 1.0000001 * 2.0**-25],
         rng.integers(0, 0x7F800000, 200_000, np.uint32).view(np.float32)],
    ).astype(np.float32)  # fmt: skip
    values = np.concatenate([magnitudes, -magnitudes])
    with np.errstate(over="ignore"):
        want = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(_core.f32_to_f16(values), want)
    nans = np.array([0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0x7FBFFFFF], np.uint32).view(np.float32)
    rounded = _core.f32_to_f16(nans)
    assert np.isnan(rounded.view(np.float16)).all()
    np.testing.assert_array_equal(rounded >> 15, [0, 0, 1, 0])


def test_shape_is_kept() -> None:
    assert _core.f32_to_f16(np.zeros((2, 3), np.float32)).shape == (2, 3)
