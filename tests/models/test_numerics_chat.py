"""SmolLM2 and Gemma 3 on real text, judged by what llama.cpp makes of the same weights in F32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forward import Forward
from numerics import agreement, divergence


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def model(request: pytest.FixtureRequest) -> Iterator[tuple[str, Forward]]:
    forward = Forward(request.getfixturevalue(f"{request.param}_path"))
    yield request.param, forward
    forward.close()


def test_distributions_are_as_close_to_f32_as_those_of_llama_cpp(model: tuple[str, Forward]) -> None:
    name, forward = model
    found = divergence(forward, name)
    assert found.positions >= 5000
    assert found.kl <= 1.10 * found.kl_default
    assert found.perplexity == pytest.approx(found.perplexity_default, rel=0.005)


def test_the_best_token_is_that_of_llama_cpp_along_its_greedy_text(model: tuple[str, Forward]) -> None:
    name, forward = model
    found = agreement(forward, name)
    assert found.positions == 24 * 64
    assert found.missed == 0
    assert found.share >= 0.95
