"""Llama (Touvron et al. 2023) and what shares its graph: Llama 2 and 3, Mistral, SmolLM2.

Pre-norm transformer with RMSNorm, rotary embeddings, grouped-query attention and SwiGLU. The files keep
rotary pairs next to each other (x0, x1), unlike the authors' checkpoints.
"""

from __future__ import annotations

from math import sqrt

from ollamapy._core import Graph, Value
from ollamapy.models.architecture import Architecture, linear, weights, with_bias
from ollamapy.models.metadata import Metadata, rope_linear_scale
from ollamapy.types import UnsupportedModelError


class Llama(Architecture):
    TENSORS = weights("token_embd", "output_norm", "output", "rope_freqs")
    LAYER_TENSORS = weights("attn_norm", "ffn_norm", "attn_rot_embd") | with_bias(
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    )

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata)
        self.eps = metadata.positive("attention.layer_norm_rms_epsilon")
        self.rope_base = metadata.positive("rope.freq_base", 10000.0)
        self.rope_scale = rope_linear_scale(metadata)
        self.rotary_dims = metadata.integer("rope.dimension_count", self.head_dim, high=self.head_dim)
        if self.rotary_dims % 2:
            raise UnsupportedModelError(f"{metadata.key('rope.dimension_count')} {self.rotary_dims} is odd")

    def trunk(self, g: Graph, logits_only: bool) -> Value:
        x = g.embed("token_embd.weight")
        for i in range(self.layers):
            x = x + self.attention(g, f"blk.{i}.", g.rms_norm(x, f"blk.{i}.attn_norm.weight", self.eps))
            if logits_only and i == self.layers - 1:
                x = g.select_logit_rows(x)
            x = x + self.feed_forward(g, f"blk.{i}.", g.rms_norm(x, f"blk.{i}.ffn_norm.weight", self.eps))
        return g.rms_norm(x, "output_norm.weight", self.eps)

    def attention(self, g: Graph, layer: str, h: Value) -> Value:
        q = self.rope(g, linear(g, h, layer + "attn_q"))  # [rows, heads * head_dim]
        k = self.rope(g, linear(g, h, layer + "attn_k"))  # [rows, kv_heads * head_dim]
        v = linear(g, h, layer + "attn_v")
        a = g.attention(q, k, v, self.head_dim, 1.0 / sqrt(self.head_dim))
        return linear(g, a, layer + "attn_output")

    def rope(self, g: Graph, x: Value) -> Value:
        # Llama 3.1 stretches the low frequencies by divisors that the converter wrote into a tensor.
        factors = "rope_freqs.weight" if g.has("rope_freqs.weight") else ""
        return g.rope(
            x, self.head_dim, self.rope_base, "interleaved", self.rotary_dims, self.rope_scale, factors
        )

    def feed_forward(self, g: Graph, layer: str, h: Value) -> Value:
        gate = linear(g, h, layer + "ffn_gate")
        up = linear(g, h, layer + "ffn_up")
        return linear(g, g.swiglu(gate, up), layer + "ffn_down")
