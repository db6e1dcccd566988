"""Attention over pages: against a float64 softmax, and bit for bit in any company, order and path."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ollamapy import _core

ISAS = _core.available_isas()
FASTER = [isa for isa in ISAS if isa != "portable"]
PAGE = 32
Array = NDArray[np.float32]


@dataclass
class Case:
    """A layer's pool with the K and V of one sequence in it, and the rows that ask."""

    positions: int
    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    scale: float = 0.0
    softcap: float = 0.0
    pages: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    pool: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))
    q: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    k: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))
    v: NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, np.float16))

    @property
    def layout(self) -> list[int]:
        k, v = self.kv_heads * self.head_dim * PAGE, self.kv_heads * self.v_dim * PAGE
        return [k + v + 8, 4, 4 + k, self.kv_heads, self.head_dim, self.v_dim]

    def page(self, index: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """K [kv_heads, head_dim, 32] and V [kv_heads, 32, v_dim] of a page of the page table."""
        stride, k_at, v_at, *_ = self.layout
        page = self.pool[self.pages[index] * stride :][:stride]
        k = page[k_at:v_at].reshape(self.kv_heads, self.head_dim, PAGE)
        return k, page[v_at : v_at + self.kv_heads * PAGE * self.v_dim].reshape(
            self.kv_heads, PAGE, self.v_dim
        )

    def write(self, position: int, k: NDArray[np.uint16] | int, v: NDArray[np.uint16] | int) -> None:
        k_page, v_page = self.page(position // PAGE)
        k_page[:, :, position % PAGE] = k
        v_page[:, position % PAGE] = v

    def run(self, isa: str, rows: slice = slice(None), group_rows: int = 8, segments: int = 0) -> Array:
        stride, k_at, v_at, *shape = self.layout
        return _core._attention(
            isa,
            self.pool.view(np.uint8),
            [2 * stride, 2 * k_at, 2 * v_at, *shape],
            self.pages,
            self.q[rows],
            self.begin[rows],
            self.end[rows],
            self.scale,
            self.softcap,
            group_rows,
            segments,
        )

    def reference(self) -> NDArray[np.float64]:
        group = self.heads // self.kv_heads
        k = np.repeat(self.k.astype(np.float64), group, axis=1)
        v = np.repeat(self.v.astype(np.float64), group, axis=1)
        out = np.empty((len(self.q), self.heads, self.v_dim))
        for row, q in enumerate(self.q.astype(np.float64)):
            seen = slice(self.begin[row], self.end[row])
            scores = np.einsum("hd,thd->ht", q, k[seen]) * self.scale
            if self.softcap:
                scores = self.softcap * np.tanh(scores / self.softcap)
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[row] = np.einsum("ht,thd->hd", p / p.sum(axis=1, keepdims=True), v[seen])
        return out


def make(
    begin: list[int],
    end: list[int],
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 64,
    v_dim: int | None = None,
    softcap: float = 0.0,
    seed: int = 0,
) -> Case:
    rng = np.random.default_rng(seed)
    v_dim = v_dim or head_dim
    positions, rows = max(end), len(begin)
    case = Case(
        positions, heads, kv_heads, head_dim, v_dim, np.array(begin, np.int32), np.array(end, np.int32),
        scale=head_dim**-0.5, softcap=softcap,
    )  # fmt: skip
    count = (positions + PAGE - 1) // PAGE
    case.pages = rng.permutation(count + 2)[:count].astype(np.int32)
    case.pool = np.zeros((count + 2) * case.layout[0], np.uint16)
    case.q = (rng.standard_normal((rows, heads, head_dim)) * 2).astype(np.float32)
    case.k = rng.standard_normal((positions, kv_heads, head_dim)).astype(np.float16)
    case.v = rng.standard_normal((positions, kv_heads, v_dim)).astype(np.float16)
    for position in range(positions):
        case.write(position, case.k[position].view(np.uint16), case.v[position].view(np.uint16))
    return case


def causal(first: int, rows: int, window: int = 0, **shape: object) -> Case:
    end = list(range(first + 1, first + rows + 1))
    return make([max(0, e - window) if window else 0 for e in end], end, **shape)  # type: ignore[arg-type]


def bits(a: Array) -> NDArray[np.uint32]:
    assert not np.isnan(a).any()
    return a.view(np.uint32)


SHAPES = [
    dict(heads=4, kv_heads=4, head_dim=32),  # MHA
    dict(heads=9, kv_heads=3, head_dim=64),  # GQA
    dict(heads=4, kv_heads=1, head_dim=256),  # MQA
    dict(heads=8, kv_heads=1, head_dim=80),
    dict(heads=7, kv_heads=1, head_dim=96),
    dict(heads=10, kv_heads=2, head_dim=128),
    dict(heads=2, kv_heads=2, head_dim=24, v_dim=40),
    dict(heads=6, kv_heads=2, head_dim=8, v_dim=8),
    dict(heads=3, kv_heads=1, head_dim=192, v_dim=128),
    dict(heads=11, kv_heads=1, head_dim=64, v_dim=72),
]
SHAPE_IDS = ["-".join(str(v) for v in shape.values()) for shape in SHAPES]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_shapes_match_float64(isa: str, shape: dict[str, int]) -> None:
    for case in (causal(0, 40, **shape), causal(250, 20, **shape), causal(600, 1, **shape)):
        np.testing.assert_allclose(case.run(isa), case.reference(), atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "length", [1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256, 257, 288, 511, 512, 513, 800]
)
def test_lengths_around_page_and_segment_borders(isa: str, length: int) -> None:
    for case in (
        make([0], [length]),  # one token
        make([0] * 5, [length] * 5),  # bidirectional
        causal(max(0, length - 9), min(9, length)),
    ):
        np.testing.assert_allclose(case.run(isa), case.reference(), atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [1, 2, 31, 32, 33, 100, 256, 300])
def test_windows(isa: str, window: int) -> None:
    for first in (0, 250, 500):
        case = causal(first, 24, window)
        np.testing.assert_allclose(case.run(isa), case.reference(), atol=4e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cap", [2.0, 50.0])
def test_softcap(isa: str, cap: float) -> None:
    case = causal(280, 12, softcap=cap)
    case.q *= 5
    np.testing.assert_allclose(case.run(isa), case.reference(), atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_with_unrelated_ranges(isa: str) -> None:
    # Nothing in common, gaps between them, and ranges that leave whole segments out for some rows.
    case = make([0, 700, 3, 100, 690, 256, 511, 0], [5, 731, 4, 420, 720, 512, 513, 731])
    np.testing.assert_allclose(case.run(isa), case.reference(), atol=4e-6)


BITS = [
    causal(0, 45, heads=9, kv_heads=3),
    causal(250, 16, heads=4, kv_heads=4),
    causal(500, 24, 100, heads=4, kv_heads=1, head_dim=256),
    causal(240, 30, softcap=20.0),
    causal(250, 12, heads=7, kv_heads=1, head_dim=24, v_dim=40),
    make([0, 700, 3, 100, 690, 256, 511, 0], [5, 731, 4, 420, 720, 512, 513, 731]),
]
BIT_IDS = ["causal", "mha", "window", "softcap", "odd", "unrelated"]


@pytest.mark.parametrize("case", BITS, ids=BIT_IDS)
@pytest.mark.parametrize("isa", FASTER)
def test_every_instruction_set_has_the_same_bits(isa: str, case: Case) -> None:
    assert np.array_equal(bits(case.run(isa)), bits(case.run("portable")))


@pytest.mark.parametrize("case", BITS, ids=BIT_IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_has_the_bits_of_a_row_in_a_group(isa: str, case: Case) -> None:
    together = bits(case.run(isa))
    for group_rows in range(1, 8):
        assert np.array_equal(bits(case.run(isa, group_rows=group_rows)), together)
    for row in range(len(case.q)):
        assert np.array_equal(bits(case.run(isa, slice(row, row + 1))), together[row : row + 1])
    shifted = bits(case.run(isa, slice(3, None)))  # other groups
    assert np.array_equal(shifted, together[3:])


@pytest.mark.parametrize("case", BITS, ids=BIT_IDS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("segments", [1, 2, 5])
def test_two_parts_have_the_bits_of_one(isa: str, case: Case, segments: int) -> None:
    whole = bits(case.run(isa))
    for group_rows in (1, 8):
        assert np.array_equal(bits(case.run(isa, group_rows=group_rows, segments=segments)), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_long_row_in_parts(isa: str) -> None:
    case = make([0, 1900], [3000, 3000], heads=3, kv_heads=1)
    np.testing.assert_allclose(case.run(isa), case.reference(), atol=4e-6)
    for segments in (1, 3, 12):
        assert np.array_equal(bits(case.run(isa, segments=segments)), bits(case.run(isa)))


@pytest.mark.parametrize("case", BITS, ids=BIT_IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_where_the_pages_lie_does_not_matter(isa: str, case: Case) -> None:
    stride = case.layout[0]
    order = np.random.default_rng(5).permutation(len(case.pool) // stride)
    moved = replace(
        case,
        pool=np.ascontiguousarray(case.pool.reshape(-1, stride)[order]).ravel(),
        pages=np.argsort(order)[case.pages].astype(np.int32),
    )
    assert not np.array_equal(moved.pages, case.pages)
    assert np.array_equal(bits(moved.run(isa)), bits(case.run(isa)))


NAN, INFINITY = 0x7E00, 0x7C00


@pytest.mark.parametrize("case", BITS, ids=BIT_IDS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("poison", [NAN, 0xFFFF, INFINITY, 0x8000, 0x7BFF])
def test_slots_that_nobody_sees_do_not_matter(isa: str, case: Case, poison: int) -> None:
    seen = np.zeros(len(case.pages) * PAGE, bool)
    for begin, end in zip(case.begin, case.end, strict=True):
        seen[begin:end] = True
    poisoned = replace(case, pool=case.pool.copy())
    for position in np.flatnonzero(~seen):
        poisoned.write(int(position), poison, poison)
    assert not np.array_equal(poisoned.pool, case.pool)
    assert np.array_equal(bits(poisoned.run(isa)), bits(case.run(isa)))
    # Pages outside of every row's range may be missing altogether.
    for page in range(len(case.pages)):
        if not seen[page * PAGE : (page + 1) * PAGE].any():
            poisoned.pages = poisoned.pages.copy()
            poisoned.pages[page] = -1
    assert np.array_equal(bits(poisoned.run(isa)), bits(case.run(isa)))


def test_the_missing_page_case_is_covered() -> None:
    assert any((case.begin > 64).all() for case in BITS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("poison", [NAN, 0xFE01])
def test_a_poisoned_position_reaches_only_the_rows_that_see_it(isa: str, poison: int) -> None:
    case = causal(60, 16, 40, heads=6, kv_heads=2)
    clean = case.run(isa)
    for position in (22, 30, 63, 64, 70):
        sees = (case.begin <= position) & (position < case.end)
        assert sees.any()
        assert not sees.all()
        for k, v in ((poison, 0), (0, poison)):
            poisoned = replace(case, pool=case.pool.copy())
            poisoned.write(position, k, v)
            result = poisoned.run(isa)
            assert np.isnan(result[sees]).all()
            assert np.array_equal(bits(result[~sees]), bits(clean[~sees]))


@pytest.mark.parametrize("isa", ISAS)
def test_a_poisoned_query_stays_alone(isa: str) -> None:
    case = causal(250, 16)
    clean = case.run(isa)
    for value in (np.nan, np.inf, -np.inf):
        poisoned = replace(case, q=case.q.copy())
        poisoned.q[5] = value
        result = poisoned.run(isa)
        assert np.isnan(result[5]).all()
        assert np.array_equal(bits(np.delete(result, 5, 0)), bits(np.delete(clean, 5, 0)))


@pytest.mark.parametrize("isa", ISAS)
def test_scores_of_minus_infinity_get_no_weight(isa: str) -> None:
    # The first segment's scores all overflow to -inf: only the second one counts.
    case = make([0], [300], heads=1, kv_heads=1, head_dim=8)
    case.k[:, 0, 0], case.q[0, 0, 0] = 0, 3e38
    case.k[:256, 0, 0] = -65504
    for position in range(300):
        case.write(position, case.k[position].view(np.uint16), case.v[position].view(np.uint16))
    alone = replace(case, begin=np.array([256], np.int32))
    assert np.array_equal(bits(case.run(isa)), bits(alone.run(isa)))
    hopeless = replace(case, end=np.array([256], np.int32))
    assert np.isnan(hopeless.run(isa)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_do_not_overflow(isa: str) -> None:
    case = causal(270, 9)
    case.q *= 3000
    np.testing.assert_allclose(case.run(isa), case.reference(), atol=2e-2)
    one_hot = np.abs(case.run(isa)[:, :, None] - case.v.astype(np.float32).repeat(3, 1).swapaxes(0, 1)[None])
    assert (one_hot.max(-1).min(-1) < 1e-2).mean() > 0.9


def test_what_does_not_fit_is_refused() -> None:
    case = causal(10, 4)
    for wrong in (
        replace(case, end=case.end + 100),
        replace(case, begin=case.end),
        replace(case, pages=np.array([-1], np.int32)),
        replace(case, pages=np.array([1000], np.int32)),
        replace(case, q=case.q[:, :5]),
        replace(case, head_dim=60),
    ):
        with pytest.raises(ValueError):
            wrong.run("portable")
