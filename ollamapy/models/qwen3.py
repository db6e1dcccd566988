"""Qwen3, dense (Yang et al. 2025).

A Llama with RMSNorm on each head of Q and K before the rotary embedding, no biases and rotary pairs that lie
half a head apart.
"""

from __future__ import annotations

from math import sqrt

from ollamapy._core import Graph, Value
from ollamapy.models.architecture import Architecture, weights
from ollamapy.models.metadata import Metadata, rope_linear_scale


class Qwen3(Architecture):
    TENSORS = weights("token_embd", "output_norm", "output")
    LAYER_TENSORS = weights(
        "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm",
        "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
    )  # fmt: skip

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata)
        self.eps = metadata.positive("attention.layer_norm_rms_epsilon")
        self.rope_base = metadata.positive("rope.freq_base", 10000.0)
        self.rope_scale = rope_linear_scale(metadata)
        metadata.refuse("rope.dimension_count", self.head_dim)

    def trunk(self, g: Graph, logits_only: bool) -> Value:
        x = g.embed("token_embd.weight")
        for i in range(self.layers):
            x = x + self.attention(g, f"blk.{i}.", g.rms_norm(x, f"blk.{i}.attn_norm.weight", self.eps))
            if logits_only and i == self.layers - 1:
                x = g.select_logit_rows(x)
            x = x + self.feed_forward(g, f"blk.{i}.", g.rms_norm(x, f"blk.{i}.ffn_norm.weight", self.eps))
        return g.rms_norm(x, "output_norm.weight", self.eps)

    def attention(self, g: Graph, layer: str, h: Value) -> Value:
        q = self.rope(g, g.linear(h, layer + "attn_q.weight"), layer + "attn_q_norm.weight")
        k = self.rope(g, g.linear(h, layer + "attn_k.weight"), layer + "attn_k_norm.weight")
        v = g.linear(h, layer + "attn_v.weight")
        a = g.attention(q, k, v, self.head_dim, 1.0 / sqrt(self.head_dim))
        return g.linear(a, layer + "attn_output.weight")

    def rope(self, g: Graph, x: Value, norm: str) -> Value:
        x = g.rms_norm(x, norm, self.eps, self.head_dim)
        return g.rope(x, self.head_dim, self.rope_base, "halves", linear_scale=self.rope_scale)

    def feed_forward(self, g: Graph, layer: str, h: Value) -> Value:
        gate = g.linear(h, layer + "ffn_gate.weight")
        up = g.linear(h, layer + "ffn_up.weight")
        return g.linear(g.swiglu(gate, up), layer + "ffn_down.weight")
