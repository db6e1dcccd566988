"""Files that we do not run are refused by name, from their header alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from ollamapy._core import GGUFFile
from ollamapy.models import ARCHITECTURES, check
from ollamapy.types import UnsupportedModelError

WIDTH, VOCABULARY = 64, 32

LLAMA: dict[str, Any] = {
    "context_length": 128,
    "embedding_length": WIDTH,
    "block_count": 2,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
LAYER = [
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., GGUFFile]:
    def writer(
        architecture: str = "llama",
        changes: dict[str, Any] | None = None,
        extra: tuple[str, ...] = (),
        kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    ) -> GGUFFile:
        """A header in order but for the changes; None removes a key. The first extra tensor has the type
        kind."""
        path = tmp_path / "model.gguf"
        out = GGUFWriter(path, architecture)
        for key, value in (LLAMA | (changes or {})).items():
            add(out, f"{architecture}.{key}", value)
        out.add_tensor("token_embd.weight", np.zeros((VOCABULARY, WIDTH), np.float32))
        for name in [f"blk.{i}.{part}.weight" for i in range(2) for part in LAYER]:
            out.add_tensor(name, np.zeros(WIDTH, np.float32))
        for name in extra:
            if kind == GGMLQuantizationType.F32:
                out.add_tensor(name, np.zeros((VOCABULARY, WIDTH), np.float32))
            else:
                block = {GGMLQuantizationType.IQ4_NL: 18, GGMLQuantizationType.Q8_0: 34}[kind]
                out.add_tensor(name, np.zeros((4, WIDTH // 32 * block), np.uint8), raw_dtype=kind)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
        return GGUFFile(str(path))

    return writer


def add(out: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        out.add_bool(key, value)
    elif isinstance(value, int):
        out.add_uint32(key, value)
    elif isinstance(value, float):
        out.add_float32(key, value)
    elif isinstance(value, str):
        out.add_string(key, value)
    elif isinstance(value, list):
        out.add_array(key, value)


def test_a_file_in_order_passes(write: Callable[..., GGUFFile]) -> None:
    architecture = check(write())
    assert (architecture.name, architecture.layers, architecture.width) == ("llama", 2, WIDTH)
    assert (architecture.heads, architecture.kv_heads, architecture.head_dim) == (4, 2, 16)
    assert architecture.pooling == "mean"


def test_an_unknown_architecture_is_named(write: Callable[..., GGUFFile]) -> None:
    assert "mamba" not in ARCHITECTURES
    with pytest.raises(UnsupportedModelError, match="architecture 'mamba' is not supported"):
        check(write("mamba"))


def test_an_unknown_tensor_type_is_named(write: Callable[..., GGUFFile]) -> None:
    message = r"tensor blk.1.ffn_up.bias has type IQ4_NL, which is not supported"
    with pytest.raises(UnsupportedModelError, match=message):
        check(write(extra=("blk.1.ffn_up.bias",), kind=GGMLQuantizationType.IQ4_NL))
    check(write(extra=("output.weight",), kind=GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_sinks.weight", "blk.2.attn_q.weight", "blk.0.attn_q_norm.weight", "blk.x.attn_q.weight"],
)
def test_a_tensor_without_a_place_in_the_graph_is_named(write: Callable[..., GGUFFile], name: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match=f"tensor {name} is not supported in architecture 'llama'"
    ):
        check(write(extra=(name,)))


def test_pictures_in_a_gemma_file_are_left_alone(write: Callable[..., GGUFFile]) -> None:
    check(write("gemma3", extra=("v.patch_embedding.weight", "mm.mm_input_projection.weight")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "llama.block_count is missing"),
        ({"context_length": None}, "llama.context_length is missing"),
        ({"attention.layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is missing"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"attention.head_count": 0}, "llama.attention.head_count is 0, not an integer from 1"),
        ({"attention.head_count": "four"}, "llama.attention.head_count is 'four'"),
        ({"attention.head_count": 3}, "llama.attention.head_count 3 is no multiple of head_count_kv 2"),
        ({"attention.head_count": [4, 2]}, "llama.attention.head_count differs between layers"),
        ({"attention.head_count": 10}, "llama.embedding_length 64 is no multiple of head_count 10"),
        ({"attention.value_length": 32}, "llama.attention.value_length 32 differs from key_length 16"),
        ({"block_count": 1 << 30}, "llama.block_count is 1073741824, not an integer from 1 to 4096"),
        ({"expert_count": 8}, "architecture 'llama' with experts is not supported"),
        ({"rope.scaling.type": "yarn"}, "llama.rope.scaling.type 'yarn' is not supported"),
        ({"rope.scaling.type": "longrope"}, "llama.rope.scaling.type 'longrope' is not supported"),
        ({"rope.scaling.factor": -2.0}, "llama.rope.scaling.factor is -2.0"),
        ({"rope.dimension_count": 15}, "llama.rope.dimension_count 15 is odd"),
        ({"rope.dimension_count": 32}, "llama.rope.dimension_count is 32, not an integer from 1 to 16"),
        ({"pooling_type": 4}, "llama.pooling_type 4 is not supported"),
        (
            {"embedding_length": 32, "attention.head_count": 2},
            r"tensor token_embd.weight has shape \(64, 32\)",
        ),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_named(
    write: Callable[..., GGUFFile], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        check(write(changes=changes))


def test_equal_values_for_all_layers_are_one_value(write: Callable[..., GGUFFile]) -> None:
    assert check(write(changes={"attention.head_count": [4, 4]})).heads == 4


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 1.0),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, 8.0),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 8.0}, 1.0),
        ({"rope.scaling.factor": 2.0}, 2.0),
        ({"rope.scale_linear": 4.0}, 4.0),
        ({"rope.scaling.factor": 0.0}, 1.0),
    ],
)
def test_linear_rope_scaling_has_an_old_and_a_new_name(
    write: Callable[..., GGUFFile], changes: dict[str, Any], scale: float
) -> None:
    assert vars(check(write(changes=changes)))["rope_scale"] == scale


def test_gemma3_alternates_local_and_global_layers(write: Callable[..., GGUFFile]) -> None:
    window = {"attention.sliding_window": 512}
    read = vars(check(write("gemma3", window | {"block_count": 13})))
    assert [i for i, local in enumerate(read["local"]) if not local] == [5, 11]
    assert (read["global_base"], read["local_base"]) == (1e6, 1e4)
    read = vars(check(write("gemma3", window | {"attention.sliding_window_pattern": [True, False]})))
    assert read["local"] == [True, False]
    read = vars(check(write("gemma3", window | {"rope.global.freq_base": 5e5, "rope.local.freq_base": 2e4})))
    assert (read["global_base"], read["local_base"]) == (5e5, 2e4)
    with pytest.raises(UnsupportedModelError, match="sliding_window_pattern has 3 entries for 2 layers"):
        check(write("gemma3", window | {"attention.sliding_window_pattern": [True, False, True]}))


def test_gemma3_scales_attention_by_the_head_but_for_one_size(write: Callable[..., GGUFFile]) -> None:
    assert vars(check(write("gemma3", {"attention.key_length": 8, "attention.value_length": 8})))[
        "attention_scale"
    ] == pytest.approx(8**-0.5)
    assert vars(
        check(write("gemma3", {"attention.key_length": 8, "attention.value_length": 8, "block_count": 62}))
    )["attention_scale"] == pytest.approx((WIDTH // 4) ** -0.5)
