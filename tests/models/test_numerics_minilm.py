"""MiniLM against an independent F32 evaluation of 20 texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from forward import GOLDEN, Forward


def test_vectors_are_those_of_transformers(minilm_gguf_path: Path) -> None:
    with np.load(GOLDEN / "minilm.npz") as golden:
        ids, lengths, want = golden["ids"], golden["lengths"], golden["embeddings"]
    texts = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
    model = Forward(minilm_gguf_path)
    got = model.pooled(texts)
    model.close()
    assert got.shape == want.shape == (20, 384)
    assert np.allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
    assert (got * want).sum(axis=1).min() > 0.999
