"""Quantizing: the types and the errors that llama-quantize has, recorded in golden/quantize.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ollamapy import _core
from ollamapy.store.quantize import QuantizeError, _Model, file_type, quantized, tensor_type
from tests.models.forward import Forward

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "quantize.json").read_text())
NUMBERS = {name: number for name, (number, block, _) in _core.BLOCK_TYPES.items() if block > 1}


@dataclass
class Unquantized:
    """A tensor as it was before it was quantized."""

    name: str
    shape: tuple[int, ...]
    type: str


@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_every_tensor_gets_the_type_that_llama_quantize_gives_it(
    model: str, minilm_gguf_path: Path, smollm2_path: Path
) -> None:
    file = _core.GGUFFile(str(minilm_gguf_path if model == "minilm" else smollm2_path))
    facts = _Model.of(file)
    for target, recorded in RECORDED["types"][model].items():
        for info in file.tensors():
            before = "F32" if model == "smollm2" else info.type
            found = tensor_type(Unquantized(info.name, info.shape, before), target, facts)  # type: ignore[arg-type]
            assert found == recorded["others"].get(info.name, recorded["usual"]), (target, info.name)


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_error_on_real_weights_is_that_of_llama_quantize(kind: str, minilm_gguf_path: Path) -> None:
    file = _core.GGUFFile(str(minilm_gguf_path))
    squares = []
    for info in file.tensors():
        if info.name.endswith("ffn_down.weight"):
            weights = file.dequantize(info.name).ravel()
            blocks = _core.quantize(NUMBERS[kind], weights)
            squares.append(np.mean((_core.dequantize(NUMBERS[kind], blocks, weights.size) - weights) ** 2))
    assert len(squares) == 6
    assert np.sqrt(np.mean(squares)) <= 1.01 * RECORDED["rmse"][kind]


@pytest.mark.parametrize("kind", [*NUMBERS, "F16", "BF16"])
def test_what_is_exact_stays(kind: str) -> None:
    number = _core.BLOCK_TYPES[kind][0]
    zeros = np.zeros(512, np.float32)
    assert not _core.dequantize(number, _core.quantize(number, zeros), 512).any()
    constant = np.full(512, -0.5, np.float32)
    back = _core.dequantize(number, _core.quantize(number, constant), 512)
    assert np.allclose(back, constant, rtol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e6])
@pytest.mark.parametrize("kind", NUMBERS)
def test_what_no_block_can_hold_is_refused(kind: str, value: float) -> None:
    values = np.ones(256, np.float32)
    values[77] = value
    with pytest.raises(ValueError, match=f"a value is not finite or too large for {kind}"):
        _core.quantize(NUMBERS[kind], values)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="31 values are not whole blocks of Q4_0"):
        _core.quantize(2, np.ones(31, np.float32))
    with pytest.raises(ValueError, match="not supported"):
        _core.quantize(16, np.ones(256, np.float32))
    assert _core.quantize(2, np.ones(0, np.float32)).size == 0


def test_names_of_types() -> None:
    assert file_type("q4_k_m") == "Q4_K_M"
    assert file_type("Q4_K") == "Q4_K_M"
    with pytest.raises(
        QuantizeError, match="unsupported quantization type IQ2_XS - supported types are F32, F16"
    ):
        file_type("iq2_xs")


def test_a_quantized_model_embeds_as_before(tmp_path: Path, minilm_gguf_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "q8.gguf"
    chunks = quantized(minilm_gguf_path, "Q8_0", progress=lambda done, total: seen.append((done, total)))
    path.write_bytes(b"".join(chunks))
    assert seen[-1][0] == seen[-1][1]
    before, after = Forward(minilm_gguf_path), Forward(path)
    assert _core.GGUFFile(str(path)).get("general.file_type") == 7
    text = [[101, 7592, 2088, 102]]
    a, b = before.pooled(text)[0], after.pooled(text)[0]
    before.close()
    after.close()
    assert float(a @ b) > 0.999


def test_a_quantized_source_is_refused(smollm2_path: Path) -> None:
    with pytest.raises(QuantizeError, match="quantization is only supported for F16, BF16 and F32 models"):
        next(iter(quantized(smollm2_path, "Q4_K_M")))


def test_a_quantized_source_for_a_type_of_our_own(tmp_path: Path, smollm2_path: Path) -> None:
    path = tmp_path / "q5.gguf"
    path.write_bytes(b"".join(quantized(smollm2_path, "Q5_1")))
    before, after = _core.GGUFFile(str(smollm2_path)), _core.GGUFFile(str(path))
    for name in ("blk.3.ffn_down.weight", "blk.7.attn_q.weight"):
        a, b = before.dequantize(name), after.dequantize(name)
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.06 * np.std(a)
