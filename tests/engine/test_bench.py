"""What a step computes and reads, and how its time is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollamapy import _core
from ollamapy.engine.bench import Bench, Case, streams_case
from ollamapy.engine.profile import Peaks, label, summarize
from ollamapy.types import ContextLengthError, UnsupportedModelError


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Bench]:
    yield Bench(str(smollm2_path), 1, 2)


def test_work_is_that_of_the_products(smollm2: Bench, smollm2_path: Path) -> None:
    """Counted anew from the file: everything 2-dimensional is a product. What comes behind the last attention layer is
    computed for the rows that are sampled only."""
    tensors = [tensor for tensor in _core.GGUFFile(str(smollm2_path)).tensors() if len(tensor.shape) == 2]
    late = ("token_embd.", "blk.29.ffn_")
    rows = {tensor.name: 2 if tensor.name.startswith(late) else 7 for tensor in tensors}
    expected = sum(2 * rows[tensor.name] * tensor.shape[0] * tensor.shape[1] for tensor in tensors)
    work = smollm2.work(7, 2)
    assert work.int8_operations + work.f32_operations == expected
    assert smollm2.token_bytes == sum(tensor.nbytes for tensor in tensors)
    assert smollm2.token_bytes <= work.nbytes < 1.05 * smollm2.token_bytes


def test_cases_have_to_fit_in_the_context(smollm2: Bench, minilm_gguf_path: Path) -> None:
    smollm2.check(Case("prefill", 8192))
    smollm2.check(Case("decode", 8191))
    for case in (Case("prefill", 8193), Case("decode", 8192), Case("decode", 128, 8065)):
        with pytest.raises(ContextLengthError, match="the model has 8192"):
            smollm2.run(case)
    assert smollm2.run(streams_case(2)) > 0
    with pytest.raises(UnsupportedModelError, match="only embeds"):
        Bench(str(minilm_gguf_path), 1)


def test_operations_are_summed_by_kind(smollm2: Bench) -> None:
    instructions = smollm2.instructions
    assert len(instructions) == len(smollm2.program.describe().splitlines())
    head = instructions[-1]
    seconds = [0.01] * (len(instructions) - 1) + [2.0]
    ((name, kind, outputs, inputs, size),) = head.weights
    assert (name, outputs, inputs) == ("token_embd.weight", 49152, 576)
    peaks = Peaks(int8=outputs * inputs * 1.0, f32=1.0, bandwidth=size / 4)
    lines = summarize(instructions, seconds, rows=5, outputs=1, peaks=peaks)
    first = lines[0]
    assert first.name == label(head) == f"matmul token_embd:{kind}"
    assert first.seconds == 2.0
    # 2 operations for each weight at a peak of one weight a second; its bytes take 4 seconds
    assert first.peak_share == pytest.approx(2 / 2)
    assert first.bandwidth_share == pytest.approx(4 / 2)
    assert sum(line.share for line in lines) == pytest.approx(1)
    names = [line.name for line in lines]
    assert len(names) == len(set(names)) < 20
    attention = next(line for line in lines if line.name == "attention")
    layers = sum(i.op == "attention" for i in instructions)
    assert attention.seconds == pytest.approx(0.01 * layers)
    assert attention.peak_share is None and attention.bandwidth_share is None
    assert not any("b1" in name or "blk" in name or "->" in name for name in names)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_peaks(isa: str) -> None:
    device = _core.Device(1, isa)
    for kind in ("int8", "f32"):
        assert 1e6 < device.measure_peak(kind, 0) < 1e14
    with pytest.raises(ValueError, match="int8"):
        device.measure_peak("int4")
    for seconds in (-1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="seconds"):
            device.measure_peak("int8", seconds)
