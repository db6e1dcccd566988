"""A LoRA beside the weights computes what weights with the LoRA merged into them compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ollamapy import _core
from ollamapy.models.lora import check_adapter
from ollamapy.store.gguf_writer import Tensor, gguf_chunks
from ollamapy.types import UnsupportedModelError
from tests.models.forward import F32, GOLDEN, Forward

RANK, ALPHA = 8, 16.0


def write_adapter(path: Path, pairs: dict[str, tuple[F32, F32]], **metadata: Any) -> Path:
    """pairs: A [rank, inputs] and B [outputs, rank] by the weight's name."""
    values = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama", **metadata}
    rows: Any = [(key.replace("__", "."), "string", value) for key, value in values.items() if value]
    rows.append(("adapter.lora.alpha", "f32", ALPHA))
    tensors = [
        Tensor(f"{name}.{half}", matrix.shape, "F32", lambda matrix=matrix: [matrix])  # type: ignore[misc]
        for name, pair in pairs.items()
        for half, matrix in zip(("lora_a", "lora_b"), pair, strict=True)
    ]
    path.write_bytes(b"".join(gguf_chunks(rows, tensors)))
    return path


def random_pairs(base: Path, weights: list[str], scale: float = 0.1) -> dict[str, tuple[F32, F32]]:
    file, random = _core.GGUFFile(str(base)), np.random.default_rng(5)
    pairs = {}
    for name in weights:
        inputs, outputs = file.tensor(name).shape
        a, b = random.normal(0, scale, (RANK, inputs)), random.normal(0, scale, (outputs, RANK))
        pairs[name] = (a.astype(np.float32), b.astype(np.float32))
    return pairs


def merged(base: Path, target: Path, pairs: dict[str, tuple[F32, F32]]) -> Path:
    """The base, F32, with the products added to its weights in place."""
    file, data = _core.GGUFFile(str(base)), bytearray(base.read_bytes())
    for name, (a, b) in pairs.items():
        before = np.ascontiguousarray(file.dequantize(name))
        place = file.tensor(name).offset
        after = before + np.float32(ALPHA / RANK) * (b @ a)
        data[place : place + after.nbytes] = after.astype("<f4").tobytes()
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_beside_is_as_merged(name: str, tmp_path: Path) -> None:
    base = GOLDEN / "models" / f"tiny-{name}.gguf"
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    pairs = random_pairs(base, [f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in parts])
    adapter = write_adapter(tmp_path / "adapter.gguf", pairs, **{"general.architecture": name})
    check_adapter(str(adapter), str(base))
    with np.load(GOLDEN / "models" / f"tiny-{name}.npz") as golden:
        ids, plain = golden["ids"].tolist(), golden["logits"]
    whole = Forward(merged(base, tmp_path / "merged.gguf", pairs), threads=1, context=64)
    want = whole.logits(ids, 0)
    whole.close()
    model = Forward(base, threads=1, context=64, adapter=adapter)
    got = model.logits(ids, 0)
    assert np.abs(want - plain).max() / np.abs(want).max() > 0.1  # the adapter does something
    assert np.abs(got - want).max() / np.abs(want).max() < 0.01
    for rows in (1, 7):
        assert np.array_equal(model.logits(ids, 0, rows), got)
    model.close()


def test_of_a_quantized_model(smollm2_path: Path, tmp_path: Path) -> None:
    """B of zeros changes no bit of what a quantized base computes; another B does."""
    pairs = random_pairs(smollm2_path, ["blk.3.attn_q.weight", "blk.7.ffn_down.weight"])
    nothing = {name: (a, np.zeros_like(b)) for name, (a, b) in pairs.items()}
    ids, results = list(range(100, 120)), []
    for number, chosen in enumerate((None, nothing, pairs)):
        path = None if chosen is None else write_adapter(tmp_path / f"{number}.gguf", chosen)
        model = Forward(smollm2_path, context=64, adapter=path)
        results.append(model.logits(ids, 0))
        model.close()
    assert np.array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_what_cannot_be_applied_is_refused(tmp_path: Path) -> None:
    base = GOLDEN / "models" / "tiny-llama.gguf"
    name = "blk.0.attn_q.weight"
    [(a, b)] = random_pairs(base, [name]).values()
    for pairs, metadata, message in (
        ({name: (a, b)}, {"general.architecture": "qwen3"}, "the adapter is for architecture 'qwen3'"),
        ({name: (a, b)}, {"general.type": "model"}, "the file is no LoRA adapter"),
        ({name: (a, b)}, {"adapter.type": ""}, "the file is no LoRA adapter"),
        ({}, {}, "the adapter has no tensors"),
        ({"blk.9.attn_q.weight": (a, b)}, {}, "which the model does not have"),
        ({"token_embd.weight": (a, b)}, {}, "an adapter of token_embd.weight is not supported"),
        ({"output_norm.weight": (a, b)}, {}, "an adapter of output_norm.weight is not supported"),
        ({name: (a[:, :32], b)}, {}, "has shapes"),
        ({name: (a[:4], b)}, {}, "has shapes"),
    ):
        path = write_adapter(tmp_path / "adapter.gguf", pairs, **metadata)
        with pytest.raises(UnsupportedModelError, match=message):
            check_adapter(str(path), str(base))
    whole = write_adapter(tmp_path / "adapter.gguf", {name: (a, b)}).read_bytes()
    (tmp_path / "adapter.gguf").write_bytes(whole.replace(b"weight.lora_b", b"weight.lora_c"))
    with pytest.raises(UnsupportedModelError, match="not half of a low-rank pair"):
        check_adapter(str(tmp_path / "adapter.gguf"), str(base))
