"""The row kernels: against float64 NumPy, and every instruction set against the portable one, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ollamapy import _core

ISAS = _core.available_isas()
FASTER = [isa for isa in ISAS if isa != "portable"]
LENGTHS = [1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 576, 641, 2048]
Array = NDArray[np.float32]

erf64 = np.vectorize(math.erf)


def same_bits(a: Array, b: Array) -> bool:
    """Equal bits; any NaN equals any other (payloads are not part of the interface)."""
    nan = np.isnan(a)
    return bool(
        np.array_equal(nan, np.isnan(b)) and np.array_equal(a[~nan].view(np.uint32), b[~nan].view(np.uint32))
    )


def ulps(result: Array, exact: NDArray[np.float64]) -> float:
    """The largest error in units of the last place of the exact value."""
    spacing = np.spacing(np.maximum(np.abs(exact), 2.0**-126).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(result.astype(np.float64) - exact) / spacing))


def row(n: int, seed: int = 0, spread: float = 3.0) -> Array:
    return (np.random.default_rng(seed + 1000 * n).standard_normal(n) * spread).astype(np.float32)


def silu64(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / (1 + np.exp(-x))


def gelu_tanh64(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rms_norm64(x: NDArray[np.float64], weight: NDArray[np.float64] | float = 1.0) -> NDArray[np.float64]:
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weight


def layer_norm64(
    x: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> NDArray[np.float64]:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


# name, arrays, number, reference, absolute error allowed for values of a few units
OPERATIONS: list[tuple[str, int, float, Callable[..., NDArray[np.float64]], float]] = [
    ("add", 2, 0.0, lambda x, y: x + y, 1e-6),
    ("scale", 1, 0.3, lambda x: x * float(np.float32(0.3)), 1e-6),
    ("softcap", 1, 5.0, lambda x: 5 * np.tanh(x / 5), 2e-6),
    ("rms_norm", 1, 1e-5, rms_norm64, 2e-6),
    ("rms_norm", 2, 1e-5, rms_norm64, 6e-6),
    ("layer_norm", 3, 1e-5, layer_norm64, 6e-6),
    ("l2_norm", 1, 0.0, lambda x: x / np.linalg.norm(x), 3e-7),
    ("silu", 1, 0.0, silu64, 2e-6),
    ("gelu_tanh", 1, 0.0, gelu_tanh64, 2e-6),
    ("gelu_erf", 1, 0.0, lambda x: 0.5 * x * (1 + erf64(x / math.sqrt(2))), 2e-6),
    ("swiglu", 2, 0.0, lambda g, u: silu64(g) * u, 1e-5),
    ("geglu", 2, 0.0, lambda g, u: gelu_tanh64(g) * u, 1e-5),
]
OPERATION_IDS = [f"{name}-{count}" for name, count, *_ in OPERATIONS]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "count", "number", "reference", "allowed"), OPERATIONS, ids=OPERATION_IDS)
def test_operation_matches_float64(
    isa: str,
    name: str,
    count: int,
    number: float,
    reference: Callable[..., NDArray[np.float64]],
    allowed: float,
) -> None:
    for n in LENGTHS:
        if n == 1 and name == "layer_norm":
            continue  # the variance of one value is 0: everything is in eps
        arrays = [row(n, seed) for seed in range(count)]
        exact = reference(*(a.astype(np.float64) for a in arrays))
        result = _core._row_op(isa, name, arrays, number)
        assert np.max(np.abs(result - exact)) <= allowed, n


@pytest.mark.parametrize("isa", FASTER)
@pytest.mark.parametrize(("name", "count", "number"), [o[:3] for o in OPERATIONS], ids=OPERATION_IDS)
def test_operation_has_the_bits_of_portable(isa: str, name: str, count: int, number: float) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-40, -1e-40], np.float32)
    for n in LENGTHS:
        arrays = [row(n, seed, spread=20.0) for seed in range(count)]
        assert same_bits(
            _core._row_op(isa, name, arrays, number), _core._row_op("portable", name, arrays, number)
        ), n
        arrays[0][: special.size] = special[:n]
        assert same_bits(
            _core._row_op(isa, name, arrays, number), _core._row_op("portable", name, arrays, number)
        ), n


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("name", "count", "number"),
    [o[:3] for o in OPERATIONS if "norm" not in o[0]],
    ids=[i for i in OPERATION_IDS if "norm" not in i],
)
def test_a_value_does_not_depend_on_the_length_of_its_row(
    isa: str, name: str, count: int, number: float
) -> None:
    arrays = [row(200, seed) for seed in range(count)]
    whole = _core._row_op(isa, name, arrays, number)
    for n in LENGTHS:
        if n < 200:
            assert same_bits(_core._row_op(isa, name, [a[:n] for a in arrays], number), whole[:n]), n


@pytest.mark.parametrize("isa", ISAS)
def test_exp_within_one_and_a_half_ulp(isa: str) -> None:
    # exp is seen through log_sum_exp's sum: two values, the larger one 0, give log(1 + exp(x)); and through
    # silu(x) / x = 1 / (1 + exp(-x)). Where exp(-x) is far above 1 or the sum is exact this shows its error.
    x = np.linspace(-87, -20, 200_001).astype(np.float32)
    x64 = x.astype(np.float64)
    exact = x64 / (1 + np.exp(-x64))
    result = _core._row_op(isa, "silu", [x])
    assert ulps(result, exact) < 2.5  # exp, the sum with 1 and the division round once each


@pytest.mark.parametrize("isa", ISAS)
def test_sigmoid_tails(isa: str) -> None:
    x = np.array([-np.inf, -1e30, -200.0, -88.5, 88.5, 200.0, 1e30, np.inf, np.nan], np.float32)
    result = _core._row_op(isa, "silu", [x])
    assert np.all(np.abs(result[:3]) == 0)
    assert ulps(result[3:4], np.array([-88.5 * math.exp(-88.5)])) < 3
    assert np.array_equal(result[4:8], x[4:8])
    assert np.isnan(result[8])


@pytest.mark.parametrize("isa", ISAS)
def test_tanh_within_two_ulp(isa: str) -> None:
    # softcap with cap 1 is tanh
    x = np.concatenate([np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1, 10_001)]).astype(np.float32)
    result = _core._row_op(isa, "softcap", [x], 1.0)
    assert ulps(result, np.tanh(x.astype(np.float64))) < 2
    ends = _core._row_op(
        isa, "softcap", [np.array([-np.inf, -1e30, 1e30, np.inf, np.nan, 0, -0.0], np.float32)], 1.0
    )
    assert np.array_equal(ends[:4], [-1, -1, 1, 1])
    assert np.isnan(ends[4])
    assert np.array_equal(np.signbit(ends[5:]), [False, True])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["gelu_tanh", "gelu_erf"])
def test_gelu_tails(isa: str, name: str) -> None:
    x = np.array([-np.inf, -1e30, -50.0, 50.0, 1e30, np.inf, np.nan, 0.0], np.float32)
    result = _core._row_op(isa, name, [x])
    assert np.all(np.abs(result[:3]) == 0)
    assert np.array_equal(result[3:6], x[3:6])
    assert np.isnan(result[6])
    assert result[7] == 0


@pytest.mark.parametrize("isa", ISAS)
def test_gelu_erf_error(isa: str) -> None:
    x = np.linspace(-8, 8, 200_001).astype(np.float32)
    x64 = x.astype(np.float64)
    exact = 0.5 * x64 * (1 + erf64(x64 / math.sqrt(2)))
    assert np.max(np.abs(_core._row_op(isa, "gelu_erf", [x]) - exact) / np.maximum(np.abs(x64), 1e-3)) < 2e-7


@pytest.mark.parametrize("isa", ISAS)
def test_softcap_keeps_small_values(isa: str) -> None:
    x = row(1000, spread=0.01)
    assert ulps(_core._row_op(isa, "softcap", [x], 50.0), 50 * np.tanh(x.astype(np.float64) / 50)) < 4


@pytest.mark.parametrize("isa", ISAS)
def test_norms_of_zeros(isa: str) -> None:
    x, one, two = np.zeros(40, np.float32), np.full(40, 1, np.float32), np.full(40, 2, np.float32)
    assert not np.any(_core._row_op(isa, "rms_norm", [x, one], 1e-6))
    assert not np.any(_core._row_op(isa, "l2_norm", [x]))
    assert np.array_equal(_core._row_op(isa, "layer_norm", [two, one, one], 1e-6), one)


@pytest.mark.parametrize("isa", ISAS)
def test_norms_of_long_rows(isa: str) -> None:
    x, weight = row(16384), row(16384, 1)
    exact = rms_norm64(x.astype(np.float64), weight.astype(np.float64))
    assert ulps(_core._row_op(isa, "rms_norm", [x, weight], 1e-5), exact) < 6
    x += 100.0  # the two passes keep what a sum of squares would cancel
    exact = layer_norm64(x.astype(np.float64), weight.astype(np.float64), weight.astype(np.float64))
    assert np.max(np.abs(_core._row_op(isa, "layer_norm", [x, weight, weight], 1e-5) - exact)) < 2e-4


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 5, 16, 1000, 1024, 1025, 49152, 262144])
def test_log_sum_exp(isa: str, n: int) -> None:
    x = row(n, spread=4.0)
    top, log_sum = _core._row_op(isa, "log_sum_exp", [x])
    exact = math.log(np.sum(np.exp(x.astype(np.float64) - float(x.max()))))
    assert top == x.max()
    assert log_sum == pytest.approx(exact, rel=3e-7, abs=1e-7)
    assert same_bits(np.array([top, log_sum]), _core._row_op("portable", "log_sum_exp", [x]))


@pytest.mark.parametrize("isa", ISAS)
def test_log_sum_exp_of_a_flat_row_does_not_drift(isa: str) -> None:
    _, log_sum = _core._row_op(isa, "log_sum_exp", [np.full(262144, 1.5, np.float32)])
    assert log_sum == np.float32(math.log(262144))


@pytest.mark.parametrize("isa", ISAS)
def test_log_sum_exp_of_infinities(isa: str) -> None:
    x = row(50)
    x[3:20] = -np.inf
    top, log_sum = _core._row_op(isa, "log_sum_exp", [x])
    finite = x[np.isfinite(x)].astype(np.float64)
    assert top + log_sum == pytest.approx(math.log(np.sum(np.exp(finite))), rel=1e-6)
    assert np.all(_core._row_op(isa, "log_sum_exp", [np.full(50, -np.inf, np.float32)]) == -np.inf)
    for place in (0, 17, 49):
        x[place] = np.nan
        assert np.isnan(_core._row_op(isa, "log_sum_exp", [x])[1])
        x[place] = -np.inf


def rotated(x: Array, cos: Array, sin: Array, pairing: str) -> NDArray[np.float64]:
    pairs = cos.size
    y = x.astype(np.float64)
    first = np.arange(pairs) if pairing == "halves" else 2 * np.arange(pairs)
    second = first + (pairs if pairing == "halves" else 1)
    a, b = y[:, first].copy(), y[:, second].copy()
    y[:, first] = a * cos - b * sin
    y[:, second] = a * sin + b * cos
    return y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize(
    ("head_dim", "rotary"),
    [(64, 64), (128, 128), (80, 80), (256, 256), (80, 32), (96, 40), (8, 2), (64, 50), (32, 0)],
)
def test_rope(isa: str, pairing: str, head_dim: int, rotary: int) -> None:
    x = row(3 * head_dim).reshape(3, head_dim)
    angle = np.random.default_rng(0).uniform(-4, 4, rotary // 2)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    result = _core._rope(isa, x, cos, sin, pairing)
    np.testing.assert_allclose(result, rotated(x, cos, sin, pairing), atol=2e-6)
    assert same_bits(result[:, rotary:], x[:, rotary:])
    assert same_bits(result, _core._rope("portable", x, cos, sin, pairing))
    for head in range(3):
        assert same_bits(result[head : head + 1], _core._rope(isa, x[head : head + 1], cos, sin, pairing))


def half_values() -> Array:
    """Every f16 value, the midpoints between neighbours and the floats beside the midpoints."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves[-1] = 65536.0
    middle = ((halves[1:] + halves[:-1]) / 2).astype(np.float32)
    above, below = np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(0))
    positive = np.concatenate([halves[:-1].astype(np.float32), middle, above, below])
    extra = np.array([65504, 65519.996, 65520, 1e30, np.inf, np.nan, 1e-45, 1e-30, 2.0**-25], np.float32)
    values = np.concatenate([positive, -positive, extra, -extra])
    return np.resize(values, (values.size + 255) // 256 * 256)


@pytest.mark.parametrize("isa", ISAS)
def test_store_kv_rounds_to_nearest_even_and_clamps(isa: str) -> None:
    values = half_values()
    expected = np.clip(values, -65504, 65504).astype(np.float16)
    pool = np.zeros(2 * 32 * 256, np.uint16)
    layout = [pool.nbytes, 0, 2 * 32 * 256, 1, 256, 256]
    for chunk, wanted in zip(values.reshape(-1, 1, 256), expected.reshape(-1, 256), strict=True):
        _core._store_kv(isa, pool.view(np.uint8), layout, 0, 5, chunk, chunk)
        k = pool[: 32 * 256].reshape(256, 32)[:, 5].view(np.float16)
        v = pool[32 * 256 :].reshape(32, 256)[5].view(np.float16)
        for stored in (k, v):
            nan = np.isnan(wanted)
            assert np.array_equal(np.isnan(stored), nan)
            assert np.array_equal(stored[~nan].view(np.uint16), wanted[~nan].view(np.uint16))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("heads", "head_dim", "v_dim"), [(1, 64, 64), (3, 64, 64), (2, 80, 40), (1, 8, 8), (5, 24, 72)]
)
def test_store_kv_touches_its_slot_only(isa: str, heads: int, head_dim: int, v_dim: int) -> None:
    k_size, v_size = heads * head_dim * 32, heads * v_dim * 32
    stride = k_size + v_size + 7
    pool = np.full(3 * stride, 0x1234, np.uint16)
    layout = [2 * stride, 6, 6 + 2 * k_size, heads, head_dim, v_dim]
    k, v = row(heads * head_dim).reshape(heads, head_dim), row(heads * v_dim, 1).reshape(heads, v_dim)
    _core._store_kv(isa, pool.view(np.uint8), layout, 1, 31, k, v)
    expected = np.full(3 * stride, 0x1234, np.uint16)
    page = expected[stride : 2 * stride]
    page[3 : 3 + k_size].reshape(heads, head_dim, 32)[:, :, 31] = k.astype(np.float16).view(np.uint16)
    page[3 + k_size : 3 + k_size + v_size].reshape(heads, 32, v_dim)[:, 31] = v.astype(np.float16).view(
        np.uint16
    )
    assert np.array_equal(pool, expected)


def test_available_isas() -> None:
    assert "portable" in ISAS
    assert len(set(ISAS)) == len(ISAS)


def test_unknown_names_are_refused() -> None:
    x = row(8)
    with pytest.raises(ValueError, match="altivec"):
        _core._row_op("altivec", "silu", [x])
    with pytest.raises(ValueError, match="no row operation"):
        _core._row_op("portable", "swish", [x])
    with pytest.raises(ValueError, match="number of arrays"):
        _core._row_op("portable", "add", [x])
    with pytest.raises(ValueError, match="one length"):
        _core._row_op("portable", "add", [x, x[:4]])
