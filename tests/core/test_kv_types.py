"""Quantized KV pages: what a token's row becomes, against ggml's formulas in NumPy; attention over it against float64
on the values that the page holds, and bit for bit in any company."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from ollamapy import _core

ISAS = _core.available_isas()
FASTER = [isa for isa in ISAS if isa != "portable"]
TYPES = ["q8_0", "q4_0"]
PAGE, BLOCK = 32, 32
GGML = {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}
QUANT_BYTES = {"q8_0": 32, "q4_0": 16}  # of a block, beside its f16 scale
Array = NDArray[np.float32]


def blocks(dim: int) -> int:
    return -(-dim // BLOCK)


def head_bytes(kind: str, dim: int) -> int:
    return PAGE * dim * 2 if kind == "f16" else PAGE * blocks(dim) * (2 + QUANT_BYTES[kind])


def quantize(kind: str, x: Array) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Scale and bytes of one block of 32 floats, as ggml lays them out; halves go to the even integer."""
    x = np.clip(x, -65504, 65504).astype(np.float32)
    if kind == "q8_0":
        top, steps = np.abs(x).max(), np.float32(127)
    else:
        top, steps = x[np.abs(x).argmax()], np.float32(-8)
    with np.errstate(all="ignore"):
        scale = np.float16(top / steps)
        inverse = steps / top
        if np.isnan(scale) or scale == 0:
            x, inverse = np.zeros(BLOCK, np.float32), np.float32(0)
    if kind == "q8_0":
        return scale, np.rint(x * inverse).astype(np.int8).view(np.uint8)
    q = np.minimum(np.floor(x * inverse + np.float32(8.5)), 15).astype(np.uint8)
    return scale, q[:16] | q[16:] << 4


def values(kind: str, scale: np.float16, data: NDArray[np.uint8]) -> Array:
    """What the gguf package reads from such a block."""
    raw = np.concatenate([np.array([scale]).view(np.uint8), data])
    return dequantize(raw[None], GGML[kind])[0]


@dataclass
class Pages:
    """A pool with K and V of one sequence, written by the core."""

    kind: str
    kv_heads: int
    head_dim: int
    v_dim: int
    count: int

    def __post_init__(self) -> None:
        k = self.kv_heads * head_bytes(self.kind, self.head_dim)
        v = self.kv_heads * head_bytes(self.kind, self.v_dim)
        self.stride, self.k_at, self.v_at = k + v + 26, 2, k + 10
        self.pool = np.full(self.count * self.stride, 0x5A, np.uint8)
        self.pages = np.random.default_rng(self.count).permutation(self.count).astype(np.int32)

    @property
    def layout(self) -> list[int]:
        return [self.stride, self.k_at, self.v_at, self.kv_heads, self.head_dim, self.v_dim]

    def write(self, isa: str, position: int, k: Array, v: Array) -> None:
        page = int(self.pages[position // PAGE])
        _core._store_kv(isa, self.pool, self.layout, page, position % PAGE, k, v, self.kind)

    def _head(self, page: int, at: int, dim: int, head: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Scale bytes and quants of a kv head."""
        size = head_bytes(self.kind, dim)
        start = page * self.stride + at + head * size
        data = self.pool[start : start + size]
        return data[: blocks(dim) * PAGE * 2], data[blocks(dim) * PAGE * 2 :]

    def k_blocks(self, page: int, head: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Scales [blocks, 32 tokens] and quants [blocks, bytes, 32 tokens]: views."""
        scales, quants = self._head(page, self.k_at, self.head_dim, head)
        return scales.view(np.float16).reshape(-1, PAGE), quants.reshape(-1, QUANT_BYTES[self.kind], PAGE)

    def v_blocks(self, page: int, head: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Scales [32 tokens, blocks] and quants [32 tokens, blocks, bytes]: views."""
        scales, quants = self._head(page, self.v_at, self.v_dim, head)
        return scales.view(np.float16).reshape(PAGE, -1), quants.reshape(PAGE, -1, QUANT_BYTES[self.kind])

    def _k_by_token(self, page: int, head: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        scales, quants = self.k_blocks(page, head)
        return scales.T, quants.transpose(2, 0, 1)

    def read(self, position: int) -> tuple[Array, Array]:
        """K [kv heads, head_dim] and V [kv heads, v_dim] that the page holds."""
        page, slot = int(self.pages[position // PAGE]), position % PAGE
        k = np.empty((self.kv_heads, blocks(self.head_dim) * BLOCK), np.float32)
        v = np.empty((self.kv_heads, blocks(self.v_dim) * BLOCK), np.float32)
        for head in range(self.kv_heads):
            for out, scales, quants in (
                (k[head], *self._k_by_token(page, head)),
                (v[head], *self.v_blocks(page, head)),
            ):
                for block in range(len(out) // BLOCK):
                    span = slice(block * BLOCK, (block + 1) * BLOCK)
                    out[span] = values(self.kind, scales[slot, block], quants[slot, block])
        return k[:, : self.head_dim], v[:, : self.v_dim]


def padded(x: Array) -> Array:
    return np.pad(x, (0, -len(x) % BLOCK))


ROWS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "wide": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.integers(-7, 7, n),
    "large": lambda rng, n: rng.standard_normal(n) * 1e6,
    "tiny": lambda rng, n: rng.standard_normal(n) * 1e-7,
    "zeros": lambda rng, n: np.zeros(n),
    "halves": lambda rng, n: np.concatenate([[127.0, -127.0], rng.integers(-250, 250, n - 2) / 2]),
    "ties": lambda rng, n: rng.choice([-3.0, 3.0], n),
    "infinite": lambda rng, n: np.where(np.arange(n) % 7 == 3, np.inf, 1.0) * rng.choice([-1.0, 1.0], n),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("head_dim", "v_dim"), [(64, 64), (80, 40), (8, 72), (256, 128)])
def test_a_row_is_rounded_as_ggml_rounds_it(
    isa: str, kind: str, name: str, head_dim: int, v_dim: int
) -> None:
    rng = np.random.default_rng(1)
    k = np.stack([ROWS[name](rng, head_dim) for _ in range(2)]).astype(np.float32)
    v = np.stack([ROWS[name](rng, v_dim) for _ in range(2)]).astype(np.float32)
    pages = Pages(kind, 2, head_dim, v_dim, 3)
    before = pages.pool.copy()
    slot = 13
    pages.write(isa, PAGE + slot, k, v)
    expected = Pages(kind, 2, head_dim, v_dim, 3)
    page = int(pages.pages[1])
    for head in range(2):
        for block in range(blocks(head_dim)):
            scale, quants = quantize(kind, padded(k[head])[block * BLOCK :][:BLOCK])
            scales, data = expected.k_blocks(page, head)
            scales[block, slot], data[block, :, slot] = scale, quants
        for block in range(blocks(v_dim)):
            scale, quants = quantize(kind, padded(v[head])[block * BLOCK :][:BLOCK])
            scales, data = expected.v_blocks(page, head)
            scales[slot, block], data[slot, block] = scale, quants
    assert not np.array_equal(pages.pool, before)
    assert np.array_equal(pages.pool, expected.pool)  # and no other byte


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("kind", "steps"), [("q8_0", 127), ("q4_0", 8)])
def test_the_error_is_about_half_a_step(isa: str, kind: str, steps: int) -> None:
    rng = np.random.default_rng(2)
    pages = Pages(kind, 1, 64, 64, 1)
    for slot in range(PAGE):
        k, v = rng.standard_normal((2, 1, 64)).astype(np.float32)
        pages.write(isa, slot, k, v)
        for wrote, reads in zip((k, v), pages.read(slot), strict=True):
            step = np.abs(wrote).reshape(-1, BLOCK).max(1).repeat(BLOCK) / steps
            # Rounding the scale moves 127 steps by up to 1/16; q4_0's positive side ends a step early.
            most = 0.57 if kind == "q8_0" else 1.01
            assert (np.abs(reads - wrote)[0] <= most * step).all()


@dataclass
class Case:
    """Rows that ask what pages hold."""

    pages: Pages
    q: Array
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    softcap: float = 0.0

    def run(self, isa: str, rows: slice = slice(None), group_rows: int = 8, segments: int = 0) -> Array:
        scale = self.q.shape[2] ** -0.5
        return _core._attention(
            isa, self.pages.pool, self.pages.layout, self.pages.pages, self.q[rows], self.begin[rows],
            self.end[rows], scale, self.softcap, group_rows, segments, self.pages.kind,
        )  # fmt: skip

    def reference(self) -> NDArray[np.float64]:
        k, v = (np.stack(rows) for rows in zip(*map(self.pages.read, range(max(self.end))), strict=True))
        group = self.q.shape[1] // self.pages.kv_heads
        k, v = (a.astype(np.float64).repeat(group, axis=1) for a in (k, v))
        out = np.empty((*self.q.shape[:2], self.pages.v_dim))
        for row, q in enumerate(self.q.astype(np.float64)):
            seen = slice(self.begin[row], self.end[row])
            scores = np.einsum("hd,thd->ht", q, k[seen]) * self.q.shape[2] ** -0.5
            if self.softcap:
                scores = self.softcap * np.tanh(scores / self.softcap)
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[row] = np.einsum("ht,thd->hd", p / p.sum(axis=1, keepdims=True), v[seen])
        return out


def make(
    kind: str,
    begin: list[int],
    end: list[int],
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 64,
    v_dim: int = 64,
    softcap: float = 0.0,
) -> Case:
    rng = np.random.default_rng(3)
    pages = Pages(kind, kv_heads, head_dim, v_dim, -(-max(end) // PAGE) + 1)
    for position in range(max(end)):
        k = rng.standard_normal((kv_heads, head_dim)).astype(np.float32)
        pages.write("portable", position, k, rng.standard_normal((kv_heads, v_dim)).astype(np.float32))
    q = (rng.standard_normal((len(begin), heads, head_dim)) * 2).astype(np.float32)
    return Case(pages, q, np.array(begin, np.int32), np.array(end, np.int32), softcap)


def causal(kind: str, first: int, rows: int, window: int = 0, **shape: int) -> Case:
    end = list(range(first + 1, first + rows + 1))
    return make(kind, [max(0, e - window) if window else 0 for e in end], end, **shape)


CASES = {
    f"{kind}-{name}": case
    for kind in TYPES
    for name, case in {
        "causal": causal(kind, 0, 45, heads=9, kv_heads=3),
        "one-row": causal(kind, 600, 1),
        "mha": causal(kind, 250, 16, heads=2, kv_heads=2, head_dim=32, v_dim=32),
        "window": causal(kind, 300, 20, 100, heads=4, kv_heads=1, head_dim=256, v_dim=128),
        "odd": causal(kind, 250, 12, heads=7, kv_heads=1, head_dim=24, v_dim=40),
        "odd-blocks": causal(kind, 30, 6, heads=2, kv_heads=1, head_dim=80, v_dim=48),
        "softcap": make(kind, [0, 3, 100, 256], [5, 290, 290, 257], softcap=20.0),
    }.items()
}


def bits(a: Array) -> NDArray[np.uint32]:
    assert not np.isnan(a).any()
    return a.view(np.uint32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("isa", ISAS)
def test_attention_is_that_of_the_values_in_the_page(isa: str, case: Case) -> None:
    np.testing.assert_allclose(case.run(isa), case.reference(), atol=5e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("isa", FASTER)
def test_every_instruction_set_has_the_same_bits(isa: str, case: Case) -> None:
    assert np.array_equal(bits(case.run(isa)), bits(case.run("portable")))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_has_its_bits_in_any_company(isa: str, case: Case) -> None:
    together = bits(case.run(isa))
    for group_rows in (1, 3):
        assert np.array_equal(bits(case.run(isa, group_rows=group_rows)), together)
    for segments in (1, 2):
        assert np.array_equal(bits(case.run(isa, segments=segments)), together)
    for row in range(len(case.q)):
        assert np.array_equal(bits(case.run(isa, slice(row, row + 1))), together[row : row + 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES)
def test_a_poisoned_position_reaches_only_the_rows_that_see_it(isa: str, kind: str) -> None:
    case = causal(kind, 60, 16, 40)
    clean = case.run(isa)
    for position in (22, 63, 70):
        sees = (case.begin <= position) & (position < case.end)
        assert sees.any()
        assert not sees.all()
        for poison_k in (True, False):
            saved = case.pages.pool.copy()
            k, v = (np.ones((2, 64), np.float32) for _ in range(2))
            (k if poison_k else v)[:, [3, 40]] = np.nan
            case.pages.write(isa, position, k, v)
            result = case.run(isa)
            case.pages.pool[:] = saved
            assert np.isnan(result[sees]).all()
            assert np.array_equal(bits(result[~sees]), bits(clean[~sees]))


def test_what_does_not_fit_is_refused() -> None:
    pages = Pages("q8_0", 2, 64, 64, 1)
    row = np.zeros((2, 64), np.float32)
    with pytest.raises(ValueError, match='"f16", "q8_0" or "q4_0", not "q5_1"'):
        _core._store_kv("portable", pages.pool, pages.layout, 0, 0, row, row, "q5_1")
    with pytest.raises(ValueError, match="outside of its page"):
        _core._store_kv("portable", pages.pool, pages.layout, 0, 0, row, row, "f16")
