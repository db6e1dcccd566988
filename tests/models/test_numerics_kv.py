"""What quantized KV pages cost: SmolLM2's perplexity beside that with f16 pages (docs/numerics.md has all of it)."""

from __future__ import annotations

from pathlib import Path

import pytest
from forward import Forward
from numerics import divergence


def test_perplexity_with_quantized_pages(smollm2_path: Path) -> None:
    perplexity = {}
    for kind in ("f16", "q8_0", "q4_0"):
        model = Forward(smollm2_path, kv_type=kind)
        perplexity[kind] = divergence(model, "smollm2", chunks=1).perplexity
        model.close()
    assert perplexity["q8_0"] == pytest.approx(perplexity["f16"], rel=0.01)
    assert perplexity["q8_0"] != perplexity["f16"]
    assert 1.01 < perplexity["q4_0"] / perplexity["f16"] < 1.4
