"""Llama, Qwen 3 and Gemma 3 checkpoints as GGUF: names, hyperparameters, and the few tensors that change.

Llama's files keep rotary pairs next to each other, so rows of Q and K are reordered; Gemma's norms multiply by
1 + w, and its files hold the sum. Names and keys are those that llama.cpp and Ollama read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np

from ollamapy.store.convert.config import MOST_HEAD, MOST_LAYERS, Config
from ollamapy.store.convert.safetensors import F32, Source
from ollamapy.store.errors import ConversionError
from ollamapy.store.gguf_writer import Metadata, Tensor, TensorType

_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
_QK_NORM = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_OTHER_TOWERS = (
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
)
_BUFFERS = (".rotary_emb.inv_freq",)
_PATTERN = 6  # every sixth layer of Gemma 3 sees everything
_LAYERS_OF_27B = 62

# Defaults of transformers' Gemma3TextConfig: the published files of the larger sizes leave them out.
_GEMMA_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}


def tensor_type(source: Source) -> TensorType:
    """What a tensor is written as: matrices in 16 bits, of the kind that they have, the rest whole.

    Raises ConversionError for values that are no floats.
    """
    source.check_type()
    if len(source.shape) < 2:
        return "F32"
    return "BF16" if source.dtype == "BF16" else "F16"


class Decoder:
    """What the three have in common. Raises ConversionError for what changes a result and has no place in GGUF."""

    architecture: ClassVar[str]
    names: ClassVar[dict[str, str]] = _LAYER
    activations: ClassVar[tuple[str, ...]] = ("silu",)
    tied: ClassVar[bool] = False  # whether the output is the embedding's matrix unless config.json says

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layers = config.integer("num_hidden_layers", most=MOST_LAYERS)
        self.width = config.integer("hidden_size")
        self.heads = config.integer("num_attention_heads", self.default("num_attention_heads"))
        self.kv_heads = config.integer(
            "num_key_value_heads", self.default("num_key_value_heads") or self.heads
        )
        if not self.heads or not self.kv_heads:
            raise ConversionError("config.json: there are no attention heads")
        self.head_dim = config.integer(
            "head_dim", self.default("head_dim") or self.width // self.heads, most=MOST_HEAD
        )
        self.rope = config.rope()
        for name in ("hidden_act", "hidden_activation"):
            config.refuse(name, *self.activations)
        for values in (config, self.rope):
            values.refuse("partial_rotary_factor", 1.0)
        tied = config.get("tie_word_embeddings")
        self.is_tied = bool(self.tied if tied is None else tied)

    def default(self, name: str) -> int | None:
        return None

    # ---------------------------------------------------------------- tensors

    def tensors(self, sources: dict[str, Source]) -> list[Tensor]:
        """The tensors of the GGUF. Raises ConversionError for one too many and one too few."""
        found: dict[str, Tensor] = {}
        for name, source in sources.items():
            target = self.target(name)
            if target is not None:
                found[target] = self.tensor(target, source)
        for tensor in self.extra_tensors():
            found[tensor.name] = tensor
        for name in self.required():
            if name not in found:
                raise ConversionError(f"the safetensors files have no tensor for {name}")
        return list(found.values())

    def required(self) -> Iterable[str]:
        top = ["token_embd.weight", "output_norm.weight"] + ([] if self.is_tied else ["output.weight"])
        return top + [f"blk.{i}.{name}.weight" for i in range(self.layers) for name in self.names.values()]

    def target(self, name: str) -> str | None:
        """The GGUF name of a tensor, None for one that is not needed. Raises ConversionError."""
        if name.startswith(_OTHER_TOWERS) or name.endswith(_BUFFERS):
            return None
        short = name.replace("model.language_model.", "model.", 1).removeprefix("language_model.")
        if short in _TOP:
            return None if short == "lm_head.weight" and self.is_tied else _TOP[short]
        parts = short.split(".")
        module, kind = ".".join(parts[3:-1]), parts[-1]
        layer = parts[:2] == ["model", "layers"] and len(parts) > 4 and parts[2].isdecimal()
        if layer and int(parts[2]) < self.layers and module in self.names and kind in ("weight", "bias"):
            return f"blk.{int(parts[2])}.{self.names[module]}.{kind}"
        raise ConversionError(f"tensor {name} has no place in architecture {self.architecture}")

    def tensor(self, target: str, source: Source) -> Tensor:
        kind, change = tensor_type(source), self.change(target)
        blocks = source.rows if change is None else lambda: [change(source.whole())]
        return Tensor(target, source.shape, kind, blocks)

    def change(self, target: str) -> Callable[[F32], F32] | None:
        """What is done to the values of a tensor."""
        return None

    def extra_tensors(self) -> list[Tensor]:
        return []

    # ---------------------------------------------------------------- metadata

    def metadata(self) -> Metadata:
        config, name = self.config, self.architecture
        return [
            ("general.architecture", "string", name),
            (f"{name}.block_count", "u32", self.layers),
            (f"{name}.context_length", "u32", self.context_length),
            (f"{name}.embedding_length", "u32", self.width),
            (f"{name}.feed_forward_length", "u32", config.integer("intermediate_size")),
            (f"{name}.attention.head_count", "u32", self.heads),
            (f"{name}.attention.head_count_kv", "u32", self.kv_heads),
            (f"{name}.attention.key_length", "u32", self.head_dim),
            (f"{name}.attention.value_length", "u32", self.head_dim),
            (f"{name}.attention.layer_norm_rms_epsilon", "f32", config.number("rms_norm_eps", 1e-6)),
            *self.rope_rows(),
        ]

    @property
    def context_length(self) -> int:
        return self.config.integer("max_position_embeddings", self.default("max_position_embeddings"))

    def rope_rows(self) -> Metadata:
        name = self.architecture
        return [
            (f"{name}.rope.freq_base", "f32", self.rope.number("rope_theta", 10000.0)),
            *self.rope_scaling(self.rope),
        ]

    def rope_scaling(self, rope: Config) -> Metadata:
        """Raises ConversionError for a way to stretch positions that GGUF's readers here do not know."""
        kind = rope.get("rope_type")
        if kind in (None, "default"):
            return []
        if kind != "linear":
            raise ConversionError(f"config.json: rope type {kind!r} is not supported")
        return [
            (f"{self.architecture}.rope.scaling.type", "string", "linear"),
            (f"{self.architecture}.rope.scaling.factor", "f32", rope.number("factor")),
        ]


class LlamaConverter(Decoder):
    architecture = "llama"

    def metadata(self) -> Metadata:
        vocabulary = self.config.integer("vocab_size")
        return [
            *super().metadata(),
            ("llama.vocab_size", "u32", vocabulary),
            ("llama.rope.dimension_count", "u32", self.head_dim),
        ]

    def change(self, target: str) -> Callable[[F32], F32] | None:
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(target.split(".")[-2])
        if heads is None:
            return None
        return lambda values: self.interleave(values, heads)

    def interleave(self, values: F32, heads: int) -> F32:
        """Rows of a head from rotating halves (i, i + d/2) to rotating neighbours (2i, 2i + 1)."""
        if values.shape[0] != heads * self.head_dim or self.head_dim % 2:
            raise ConversionError(f"Q or K has {values.shape[0]} rows for {heads} heads of {self.head_dim}")
        halves = values.reshape(heads, 2, self.head_dim // 2, -1)
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)

    def rope_scaling(self, rope: Config) -> Metadata:
        return [] if rope.get("rope_type") == "llama3" else super().rope_scaling(rope)

    def extra_tensors(self) -> list[Tensor]:
        """Llama 3.1's divisors of the rotary frequencies (transformers, modeling_rope_utils.py)."""
        if self.rope.get("rope_type") != "llama3":
            return []
        factor, low = self.rope.number("factor", 8.0), self.rope.number("low_freq_factor", 1.0)
        high = self.rope.number("high_freq_factor", 4.0)
        original = self.rope.integer("original_max_position_embeddings", 8192)
        if factor <= 0 or not 0 < low < high:
            raise ConversionError("config.json: the rope factors make no sense")
        base = self.rope.number("rope_theta", 10000.0)
        divisors = []
        for i in range(0, self.head_dim, 2):
            turns = original / (2 * math.pi * base ** (i / self.head_dim))  # in the original context
            smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
        values = np.array(divisors, dtype=np.float32)
        return [Tensor("rope_freqs.weight", values.shape, "F32", lambda: [values])]


class Qwen3Converter(Decoder):
    architecture = "qwen3"
    names: ClassVar[dict[str, str]] = {**_LAYER, **_QK_NORM}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("attention_bias", False)
        config.refuse("use_sliding_window", False)


class Gemma3Converter(Decoder):
    architecture = "gemma3"
    names: ClassVar[dict[str, str]] = {**_LAYER, **_QK_NORM, **_GEMMA}
    activations = ("gelu_pytorch_tanh",)
    tied = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("attn_logit_softcapping")
        config.refuse("attention_bias", False)
        config.refuse("use_bidirectional_attention", False)
        scalar = config.number("query_pre_attn_scalar", _GEMMA_DEFAULTS["query_pre_attn_scalar"])
        scaled = self.width // self.heads if self.layers == _LAYERS_OF_27B else self.head_dim
        if scalar != scaled:
            raise ConversionError(f"config.json: query_pre_attn_scalar {scalar} is not supported")
        # transformers 5 keeps the two kinds of layers apart
        local = self.rope.get("sliding_attention")
        whole = self.rope.get("full_attention")
        self.local_base = config.number("rope_local_base_freq", 10000.0)
        if isinstance(local, dict):
            self.local_base = Config(local).number("rope_theta", 10000.0)
        if isinstance(whole, dict):
            self.rope = Config(whole)

    def default(self, name: str) -> int | None:
        return _GEMMA_DEFAULTS.get(name)

    def metadata(self) -> Metadata:
        rows = super().metadata()
        window = self.config.integer("sliding_window", _GEMMA_DEFAULTS["sliding_window"])
        rows.append(("gemma3.attention.sliding_window", "u32", window))
        rows.append(("gemma3.attention.sliding_window_pattern", "bools", self.local_layers()))
        if self.config.get("final_logit_softcapping") is not None:
            cap = self.config.number("final_logit_softcapping")
            rows.append(("gemma3.final_logit_softcapping", "f32", cap))
        return rows

    def local_layers(self) -> list[bool]:
        """Which layers have the window."""
        kinds = self.config.get("layer_types")
        if isinstance(kinds, list):
            if len(kinds) != self.layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
                raise ConversionError("config.json: layer_types does not fit the layers")
            return [kind == "sliding_attention" for kind in kinds]
        every = self.config.integer("sliding_window_pattern", _PATTERN)
        return [bool(every) and (i + 1) % every != 0 for i in range(self.layers)]

    def rope_rows(self) -> Metadata:
        return [
            ("gemma3.rope.freq_base", "f32", self.rope.number("rope_theta", 1_000_000.0)),
            ("gemma3.rope.local.freq_base", "f32", self.local_base),
            *self.rope_scaling(self.rope),
        ]

    def change(self, target: str) -> Callable[[F32], F32] | None:
        return (lambda values: values + 1) if target.endswith("_norm.weight") else None
