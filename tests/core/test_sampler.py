"""The sampler against an independent reference (sampler_reference.py) and rules that it must keep."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sampler_reference import (
    DEFAULTS,
    OFF,
    assert_distribution,
    draw,
    expected,
    logs,
    penalized,
    philox,
    support,
    survivors,
    uniform,
)

from ollamapy._core import SamplingParams, sample

# ---- The random number -------------------------------------------------------------------------------------


def test_reference_philox_gives_the_published_answers() -> None:
    """Known answers of Random123 (kat_vectors, philox4x32 10)."""
    ones = [0xFFFFFFFF] * 4
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(ones, ones[:2]) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert philox(pi, [0xA4093822, 0x299F31D0]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_a_draw_is_the_generators_number() -> None:
    """Over 2^18 equally likely tokens the drawn id spells 18 bits of the random number."""
    row = np.zeros(1 << 18, np.float32)
    big = 2**64 - 1
    cases = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (123456789, 3, 4095)]
    for seed, branch, position in [*cases, (big, big, 2**62), (2**40 + 5, 2**33, 2**35)]:
        token = draw(row, [], position, **OFF, seed=seed, branch=branch)
        assert token == int(uniform(seed, branch, position) * 2**18)


def test_seeds_are_taken_modulo_two_to_the_64() -> None:
    row = np.zeros(1 << 16, np.float32)
    for seed, same in [(-1, 2**64 - 1), (2**64 + 7, 7), (-(2**80), 0)]:
        assert draw(row, [], 3, **OFF, seed=seed) == draw(row, [], 3, **OFF, seed=same)
        assert draw(row, [], 3, **OFF, branch=seed) == draw(row, [], 3, **OFF, branch=same)


def test_seed_branch_and_position_each_make_a_fresh_draw() -> None:
    """Neighbours in any of the three are independent: all pairs of draws fill an 8 x 8 table evenly."""
    row = np.zeros(8, np.float32)
    even = {pair: 1 / 64 for pair in range(64)}

    def token(seed: int, branch: int, position: int) -> int:
        return draw(row, [], position, **OFF, seed=seed, branch=branch)

    for step in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        pairs = []
        for n in range(0, 12000, 2):
            at = [n * s for s in step]
            pairs.append(8 * token(*at) + token(*[a + s for a, s in zip(at, step, strict=True)]))
        assert_distribution(pairs, even)
    # A seed's stream is not another's, shifted.
    for first, second in itertools.pairwise(range(5)):
        a = [token(first, 0, i) for i in range(400)]
        b = [token(second, 0, i) for i in range(400)]
        for shift in range(-3, 4):
            same = sum(x == y for x, y in zip(a[3 + shift : 397 + shift], b[3:397], strict=True))
            assert same < 394 / 8 + 6 * math.sqrt(394 * 7 / 64)


def test_same_arguments_same_token() -> None:
    rng = np.random.default_rng(3)
    row = rng.normal(0, 2, 5000).astype(np.float32)
    rows = {length: row[:length].copy() for length in (5000, 300, 1)}
    history = [int(t) for t in rng.integers(0, 5000, 100)]
    params = [
        SamplingParams(seed=9, repeat_penalty=1.2),
        SamplingParams(seed=9, **OFF),
        SamplingParams(top_p=0.5, top_k=0),
    ]

    def everything() -> list[Any]:
        return [sample(r, history, p, i)[0] for r in rows.values() for p in params for i in range(30)]

    want = everything()
    with ThreadPoolExecutor(4) as pool:
        assert all(got == want for got in pool.map(lambda _: everything(), range(12)))


# ---- Which token -------------------------------------------------------------------------------------------

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    OFF,
    {"temperature": 0.0},
    {"temperature": -1.0, "top_k": 3},
    {"temperature": 0.0, "typical_p": 0.3},
    {"temperature": 2.5, "top_k": 5, "top_p": 0.99},
    {"temperature": 0.01},
    OFF | {"top_k": 1},
    OFF | {"top_p": 0.5},
    OFF | {"top_p": 0.05},
    OFF | {"top_p": 0.999},
    OFF | {"min_p": 0.05},
    OFF | {"min_p": 0.7},
    OFF | {"typical_p": 0.5},
    OFF | {"typical_p": 0.95},
    {"typical_p": 0.7, "min_p": 0.1, "top_p": 0.8, "top_k": 20, "temperature": 1.3},
    {"top_k": 0, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02},
    {"repeat_penalty": 1.3, "repeat_last_n": 5},
    {"presence_penalty": 0.9, "frequency_penalty": -0.4, "repeat_last_n": -1, "top_k": 0},
    OFF | {"repeat_penalty": 0.5, "presence_penalty": -2.0, "frequency_penalty": 0.7, "typical_p": 0.8},
    {"temperature": 0.0, "repeat_penalty": 1.8, "frequency_penalty": 0.3},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_every_draw_is_the_references(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(11)
    for n_vocab, spread, rounds in [(1, 1, 2), (2, 1, 20), (7, 2, 40), (50, 3, 40), (64, 0.1, 20), (65, 1, 20),
                                    (500, 3, 10), (3000, 2, 6), (3000, 0.01, 4), (20000, 1, 2)]:  # fmt: skip
        for position in range(rounds):
            row = rng.normal(0, spread, n_vocab).astype(np.float32)
            if position % 4 == 1:
                row = np.round(row)  # many ties
            if position % 4 == 2 and n_vocab > 2:
                row[rng.integers(0, n_vocab, n_vocab // 3)] = -np.inf
                row[0] = 1.0
            history = [int(t) for t in rng.integers(-2, n_vocab + 3, 40)]
            o = options | {"seed": int(rng.integers(0, 2**63)), "branch": position % 3}
            assert draw(row, history, position, **o) == expected(row, history, o, position)


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_the_whole_distribution(options: dict[str, Any]) -> None:
    row = np.random.default_rng(2).normal(0, 1.5, 12).astype(np.float32)
    history = [0, 3, 3, 5, 11, 3, 0, 7]
    kept, weights = survivors(row, history, DEFAULTS | options)
    total = sum(weights)
    p = {token: weight / total for token, weight in zip(kept, weights, strict=True)}
    params = SamplingParams(**options, seed=77)
    assert_distribution([sample(row, history, params, i)[0] for i in range(4000)], p)
    assert_distribution([draw(row, history, 5, **options, seed=i) for i in range(2000)], p)
    assert_distribution([draw(row, history, 5, **options, branch=i) for i in range(2000)], p)


def test_a_large_vocabulary_follows_its_distribution() -> None:
    """Draws from 100,000 tokens without any cut, counted by the rank of the token."""
    row = np.random.default_rng(4).normal(0, 3, 100_000).astype(np.float32)
    p = np.exp(row.astype(np.float64) - row.max())
    p /= p.sum()
    place = np.empty(len(row), np.int64)
    place[np.argsort(-row, kind="stable")] = np.arange(len(row))
    groups = np.minimum(np.log2(place + 1).astype(int), 20)
    want = {g: float(p[groups == g].sum()) for g in range(17)}
    params = SamplingParams(**OFF, seed=5)
    assert_distribution([int(groups[sample(row, [], params, i)[0]]) for i in range(600)], want)


# ---- Order and bounds of the cuts --------------------------------------------------------------------------


def test_top_k_comes_before_top_p() -> None:
    row = logs([0.4, 0.3, 0.2, 0.1])
    # Renormalized after top_k 2: 0.57 alone reaches 0.55. The other way round 0.4 would not.
    assert support(row, top_k=2, top_p=0.55) == {0}
    assert support(row, top_p=0.55) == {0, 1}


def test_top_k_comes_before_typical_p() -> None:
    row = logs([0.30, 0.26, 0.16, 0.10, 0.08, 0.06, 0.04])
    assert support(row, typical_p=0.1) != support(row, top_k=3, typical_p=0.1)
    assert support(row, top_k=3, typical_p=0.1) == {1}
    assert support(row, typical_p=0.1) == {2}


def test_typical_p_comes_before_top_p() -> None:
    # The typical tokens are the middle ones; top_p then picks from them. The other way round only 0 would be left.
    row = logs([0.5, 0.2, 0.15, 0.1, 0.05])
    kept, _ = survivors(row, [], DEFAULTS | OFF | {"typical_p": 0.3})
    assert 0 not in kept
    assert support(row, typical_p=0.3, top_p=0.4) == {kept[0]}


def test_top_p_comes_before_min_p() -> None:
    # min_p alone keeps 0, 1, 2. If it came first, 0 and 1 would make up more than 0.75 of what it leaves.
    row = logs([0.40, 0.30, 0.20, 0.06, 0.04])
    assert support(row, min_p=0.4) == {0, 1, 2}
    assert support(row, top_p=0.75, min_p=0.4) == {0, 1, 2}
    assert support(row, top_p=0.69, min_p=0.4) == {0, 1}
    assert support(row, top_p=0.69, min_p=0.9) == {0}


def test_temperature_comes_last() -> None:
    row = logs([0.6, 0.3, 0.1])
    for temperature in (0.1, 1.0, 1000.0):
        assert support(row, temperature=temperature, top_p=0.5) == {0}
    assert support(row, temperature=1000.0, top_p=0.61) == {0, 1}
    assert support(row, temperature=1000.0, min_p=0.4) == {0, 1}
    assert_distribution([draw(row, [], i, temperature=2.0) for i in range(4000)],
                        dict(enumerate(np.sqrt([0.6, 0.3, 0]) / np.sqrt([0.6, 0.3]).sum())) | {2: 0.0})  # fmt: skip


def test_penalties_come_first() -> None:
    row = logs([0.5, 0.3, 0.2])
    assert draw(row, [0], 0, temperature=0, presence_penalty=2.0) == 1
    params = SamplingParams(**OFF | {"top_k": 1}, presence_penalty=2.0)
    assert {sample(row, [0], params, i)[0] for i in range(50)} == {1}


def test_bounds_of_top_p() -> None:
    """The token that reaches the bound is kept."""
    even = np.zeros(10, np.float32)
    assert support(even, top_p=0.9) == set(range(9))
    assert support(even, top_p=0.5) == set(range(5))
    assert support(even, top_p=0.51) == set(range(6))
    assert support(even, top_p=0.0) == support(even, top_p=-3.0) == {0}
    assert support(even, top_p=1.0) == support(even, top_p=7.0) == set(range(10))


def test_bounds_of_typical_p() -> None:
    """The token that exceeds the bound is kept; equally typical ones go by logit, then by id."""
    even = np.zeros(10, np.float32)
    assert support(even, typical_p=0.5) == set(range(6))
    assert support(even, typical_p=0.0) == support(even, typical_p=-1.0) == {0}
    assert support(even, typical_p=1.0) == support(even, typical_p=2.0) == set(range(10))


def test_bounds_of_min_p() -> None:
    row = logs([0.4, 0.4, 0.2])
    assert support(row, min_p=1.0) == {0, 1}
    assert support(row, min_p=0.51) == {0, 1}
    assert support(row, min_p=0.49) == {0, 1, 2}
    assert support(row, min_p=0.0) == support(row, min_p=-1.0) == {0, 1, 2}
    assert support([0.0, 1.0], min_p=5.0) == {1}  # the best is always kept


def test_bounds_of_top_k() -> None:
    row = [1.0, 3.0, 2.0, 3.0, 2.0, 2.0]
    assert support(row, top_k=1) == {1}
    assert support(row, top_k=3) == {1, 2, 3}
    assert support(row, top_k=4) == {1, 2, 3, 4}
    assert (
        support(row, top_k=0)
        == support(row, top_k=-5)
        == support(row, top_k=6)
        == support(row, top_k=2**40)
        == set(range(6))
    )
    large = np.zeros(20_000, np.float32)
    large[5::7] = 1.0
    assert support(large, top_k=3) == {5, 12, 19}


def test_greedy_takes_the_lower_id_of_equals() -> None:
    for n_vocab in (3, 64, 130, 70_000):
        row = np.full(n_vocab, -1.0, np.float32)
        row[[n_vocab // 2, n_vocab - 1]] = 2.5
        assert draw(row, [], 0, temperature=0) == n_vocab // 2
    assert draw([-0.0, 0.0], [], 0, temperature=0) == 0
    assert draw([0.0, -0.0], [], 0, temperature=0) == 0
    assert support([-0.0, 0.0], top_k=1) == {0}


def test_greedy_keeps_the_typical_cut() -> None:
    row = logs([0.5, 0.2, 0.15, 0.1, 0.05])
    assert (
        draw(row, [], 0, temperature=0, typical_p=0.3)
        == expected(row, [], {"temperature": 0, "typical_p": 0.3}, 0)
        != 0
    )


# ---- Penalties ---------------------------------------------------------------------------------------------


def shifted(row: Any, history: list[int], **options: Any) -> list[float]:
    """The penalized logits, found by bisecting the logit of a rival that a greedy draw must not prefer."""
    row = np.asarray(row, np.float32)
    out = []
    for token in range(len(row)):
        low, high = -100.0, 100.0
        for _ in range(40):  # the rival's id is higher: it wins as soon as it is greater
            middle = (low + high) / 2
            rivals = np.full(len(row) + 1, -1e30, np.float32)
            rivals[token], rivals[-1] = row[token], middle
            if draw(rivals, history, 0, temperature=0, **options) == token:
                low = middle
            else:
                high = middle
        out.append(low)
    return out


def test_penalties_are_llama_cpps() -> None:
    row = [2.0, -2.0, 0.0, 4.0, -1.0]
    history = [0, 1, 1, 3, 3, 3]
    np.testing.assert_allclose(shifted(row, history, repeat_penalty=2.0), [1, -4, 0, 2, -1], atol=1e-5)
    np.testing.assert_allclose(
        shifted(row, history, presence_penalty=0.5), [1.5, -2.5, 0, 3.5, -1], atol=1e-5
    )
    np.testing.assert_allclose(shifted(row, history, frequency_penalty=0.5), [1.5, -3, 0, 2.5, -1], atol=1e-5)
    both = {"repeat_penalty": 2.0, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    np.testing.assert_allclose(shifted(row, history, **both), [0.25, -5.25, 0, 0.25, -1], atol=1e-5)


def test_the_window_of_penalties() -> None:
    row = [1.0] * 6
    history = [0, 1, 2, 2, 3]

    def penalized_ids(**options: Any) -> set[int]:
        values = shifted(row, history, presence_penalty=0.5, **options)
        return {i for i, value in enumerate(values) if value < 0.75}

    assert penalized_ids(repeat_last_n=0) == set()
    assert penalized_ids(repeat_last_n=1) == {3}
    assert penalized_ids(repeat_last_n=3) == {2, 3}
    assert (
        penalized_ids(repeat_last_n=5) == penalized_ids(repeat_last_n=500) == penalized_ids() == {0, 1, 2, 3}
    )
    long = [4, *[5] * 64]
    assert shifted(row, long, presence_penalty=0.5)[4] > 0.9  # 64 by default
    assert shifted(row, long, presence_penalty=0.5, repeat_last_n=-1)[4] < 0.6


def test_ids_outside_the_vocabulary_do_not_count() -> None:
    row = [1.0, 0.9]
    for token in (-1, 2, 63, 64, 2**31 - 1, -(2**31), 2**40, -(2**40)):
        assert draw(row, [token] * 3, 0, temperature=0, presence_penalty=5.0, repeat_penalty=3.0) == 0


def test_penalties_reach_every_token_of_a_large_vocabulary() -> None:
    """The best token is penalized away again and again; each time the next best must be found."""
    rng = np.random.default_rng(8)
    row = rng.normal(0, 4, 10_000).astype(np.float32)
    history: list[int] = []
    for _ in range(300):
        token = draw(
            row, history, 0, temperature=0, presence_penalty=1.5, frequency_penalty=0.5, repeat_last_n=-1
        )
        o = DEFAULTS | {"presence_penalty": 1.5, "frequency_penalty": 0.5, "repeat_last_n": -1}
        assert token == int(np.argmax(penalized(row, history, o)))
        history.append(token)
    raised = draw(row, [777], 0, temperature=0, presence_penalty=-100.0)
    assert raised == 777


def test_extreme_penalties_leave_the_row_usable() -> None:
    row = [3.0, -3.0, 0.0]
    assert draw(row, [0, 1, 2], 0, temperature=0, presence_penalty=3e38, frequency_penalty=3e38) == 0
    assert draw(row, [0, 1], 0, temperature=0, presence_penalty=3e38) == 2
    assert draw(row, [1], 0, temperature=0, repeat_penalty=3e38) == 0
    assert draw(row, [0], 0, temperature=0, repeat_penalty=3e38) == 0  # still above zero
    assert draw([1.0, 2.0], [0], 0, temperature=0, repeat_penalty=0.0) == 0
    assert draw([-np.inf, 1.0], [0, 0], 0, temperature=0, repeat_penalty=0.0, presence_penalty=-3e38) == 1
    assert draw([np.inf, 1.0], [0], 0, temperature=0, repeat_penalty=3e38, presence_penalty=3e38) == 0


# ---- Infinite logits, NaN ----------------------------------------------------------------------------------


def test_minus_infinity_is_impossible() -> None:
    row = np.full(300, -np.inf, np.float32)
    row[[7, 250]] = [-3e38, 1.0]
    for options in ({}, {"top_k": 0}, {"typical_p": 0.5}, {"top_p": 0.1}, {"min_p": 0.1}, {"top_k": 1000}):
        assert support(row, n=100, temperature=1.0, **options) == {250}
    row[250] = -np.inf
    assert support(row, n=50) == {7}
    assert draw(row, [], 0, temperature=0) == 7


def test_plus_infinity_takes_all() -> None:
    row = np.zeros(200, np.float32)
    row[[3, 150]] = np.inf
    for options in ({}, {"top_k": 0}, {"typical_p": 0.99}, {"top_p": 0.99, "top_k": 0}, {"min_p": 0.1}):
        assert support(row, n=200, **options) == {3, 150}
    assert draw(row, [], 0, temperature=0) == 3
    assert_distribution([draw(row, [], i, **OFF) for i in range(2000)], {3: 0.5, 150: 0.5})


@pytest.mark.parametrize(
    "bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex
)
def test_nan_anywhere_is_an_error(bits: int) -> None:
    for n_vocab in (1, 64, 100, 1000):
        for at in {0, n_vocab // 2, n_vocab - 1}:
            row = np.zeros(n_vocab, np.float32)
            row.view(np.uint32)[at] = bits
            for options in ({}, {"temperature": 0}, {"top_k": 1}, {"logprobs": 2}):
                with pytest.raises(ValueError, match="the model produced NaN logits"):
                    draw(row, [], 0, **options)


def test_nothing_possible_is_an_error() -> None:
    for options in ({}, {"temperature": 0}, {"top_k": 0}, {"logprobs": 3}):
        with pytest.raises(ValueError, match="every logit is -inf"):
            draw(np.full(70, -np.inf), [], 0, **options)


def test_the_widest_rows() -> None:
    row = [3.4e38, -3.4e38, 0.0, 1e-45]
    for options in (
        OFF,
        {"typical_p": 0.5, "top_k": 0},
        {"top_p": 0.5},
        {"min_p": 1e-300, "top_k": 0},
        {"temperature": 1e-45},
    ):
        assert support(row, n=50, **({"temperature": 1.0} | options)) == {0}
    assert support([0.0, 1e-45], temperature=1e-45) == {1, 0}
    assert support([0.0, 1.0], temperature=1e30) == {0, 1}


# ---- Log probabilities -------------------------------------------------------------------------------------


def test_logprobs_are_the_models() -> None:
    rng = np.random.default_rng(12)
    for n_vocab in (1, 5, 64, 1000, 30_000):
        row = rng.normal(0, 4, n_vocab).astype(np.float32)
        log_softmax = row.astype(np.float64) - row.max()
        log_softmax -= np.log(np.exp(log_softmax).sum())
        order = np.argsort(-row, kind="stable")
        history = [int(t) for t in rng.integers(0, n_vocab, 50)]
        for options in (
            {},
            OFF,
            {"temperature": 0},
            {"repeat_penalty": 1.7, "temperature": 3.0, "presence_penalty": 4.0},
        ):
            for n in (0, 1, 3, 20, n_vocab, 2 * n_vocab):
                params = SamplingParams(**options, logprobs=n)
                token, logprob, top = sample(row, history, params, n)
                assert token == draw(row, history, n, **options)
                assert logprob == pytest.approx(log_softmax[token], abs=1e-6, rel=1e-6)
                assert [t for t, _ in top] == list(order[:n])
                np.testing.assert_allclose([x for _, x in top], log_softmax[order[:n]], rtol=1e-6, atol=1e-6)
                assert all(x == logprob for t, x in top if t == token)


def test_no_logprobs_unless_asked_for() -> None:
    token, logprob, top = sample(np.zeros(4, np.float32), [], SamplingParams(), 0)
    assert math.isnan(logprob) and top == [] and 0 <= token < 4
    _, logprob, top = sample(np.zeros(4, np.float32), [], SamplingParams(logprobs=0), 0)
    assert logprob == pytest.approx(-math.log(4)) and top == []


def test_top_logprobs_of_equals_go_by_id() -> None:
    row = np.zeros(1000, np.float32)
    row[[900, 30, 500]] = 2.0
    top = sample(row, [], SamplingParams(logprobs=6), 0)[2]
    assert [t for t, _ in top] == [30, 500, 900, 0, 1, 2]


def test_impossible_tokens_have_no_top_logprob() -> None:
    row = np.full(100, -np.inf, np.float32)
    row[[4, 90]] = [0.0, math.log(3)]
    _, _, top = sample(row, [], SamplingParams(logprobs=10), 0)
    assert [t for t, _ in top] == [90, 4]
    np.testing.assert_allclose([math.exp(x) for _, x in top], [0.75, 0.25], rtol=1e-6)
    row[[1, 2]] = np.inf
    token, logprob, top = sample(row, [], SamplingParams(logprobs=10), 0)
    assert token in (1, 2) and logprob == pytest.approx(-math.log(2))
    assert [t for t, _ in top] == [1, 2]


# ---- Arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty",
                                  "frequency_penalty"])  # fmt: skip
def test_parameters_must_be_numbers(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf, 1e39):
        with pytest.raises(ValueError, match=f"{name} is not a finite number"):
            SamplingParams(**{name: value})


def test_parameters_out_of_range() -> None:
    with pytest.raises(ValueError, match="repeat_last_n is less than -1"):
        SamplingParams(repeat_last_n=-2)
    with pytest.raises(ValueError, match="repeat_penalty is negative"):
        SamplingParams(repeat_penalty=-0.1)
    with pytest.raises(TypeError):
        SamplingParams(0.5)  # type: ignore[misc]
    with pytest.raises(TypeError):
        SamplingParams(seed=1.5)  # type: ignore[arg-type]


def test_logits_must_be_one_row() -> None:
    for wrong in (np.zeros((2, 3), np.float32), np.float32(1), np.zeros(0, np.float32)):
        with pytest.raises(ValueError, match=r"one dimension|cannot sample from 0 logits"):
            sample(wrong, [], SamplingParams(), 0)


def test_tokens_without_a_float32_probability_are_reported_as_llama_server_does() -> None:
    row = np.full(512, -100.0, np.float32)
    row[[40, 7]] = [4.0, 3.0]
    _, _, top = sample(row, [], SamplingParams(logprobs=3), 0)
    assert [t for t, _ in top] == [40, 7, 1]  # 1: what a partial sort of all of them leaves there
    assert top[2][1] == float(np.finfo(np.float32).min)
    assert [x for _, x in top[:2]] == pytest.approx([-0.3132617, -1.3132617])
