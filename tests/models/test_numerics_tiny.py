"""Tiny random models in F32 against transformers: every op of an architecture, its pairing, scale and
order."""

from __future__ import annotations

import numpy as np
import pytest
from forward import GOLDEN, Forward

from ollamapy import _core


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_logits_are_those_of_transformers(name: str, isa: str) -> None:
    with np.load(GOLDEN / "models" / f"tiny-{name}.npz") as golden:
        ids, want = golden["ids"].tolist(), golden["logits"]
    model = Forward(GOLDEN / "models" / f"tiny-{name}.gguf", threads=1, isa=isa, context=64)
    got = model.logits(ids, 0)
    # K and V are kept in f16, which is all that separates the two.
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < 2e-3
    assert np.array_equal(got.argmax(axis=1), want.argmax(axis=1))
    for rows in (1, 7):
        assert np.array_equal(model.logits(ids, 0, rows), got)
    model.close()
