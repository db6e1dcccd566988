"""Gemma 3, text (Gemma Team 2025).

Scaled embeddings, RMSNorm before and after each half of a layer, QK-norm, GeGLU. Five local layers with a
window are followed by a global one; the two kinds have rotary bases of their own. The converter has added
the 1 of Gemma's (1 + w) norms to their weights.
"""

from __future__ import annotations

from math import sqrt

from ollamapy._core import Graph, Value
from ollamapy.models.architecture import Architecture, weights
from ollamapy.models.metadata import MOST_CONTEXT, Metadata, rope_linear_scale
from ollamapy.types import UnsupportedModelError

LAYERS_OF_27B = 62  # the one size whose attention scale is not that of its head


class Gemma3(Architecture):
    TENSORS = weights("token_embd", "output_norm", "output")
    LAYER_TENSORS = weights(
        "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm",
        "post_attention_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm",
    )  # fmt: skip
    IGNORED = ("v.", "mm.")  # the vision encoder and its projection, in Ollama's files

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata)
        self.eps = metadata.positive("attention.layer_norm_rms_epsilon")
        self.window = metadata.integer("attention.sliding_window", 0, low=0, high=MOST_CONTEXT)
        self.local = self.local_layers(metadata)
        # Two names for each base: llama.cpp's and that of Ollama's own converter.
        self.global_base = metadata.positive(
            "rope.freq_base", metadata.positive("rope.global.freq_base", 1_000_000.0)
        )
        self.local_base = metadata.positive(
            "rope.freq_base_swa", metadata.positive("rope.local.freq_base", 10_000.0)
        )
        self.rope_scale = rope_linear_scale(metadata)  # of the global layers only
        self.softcap = metadata.number("final_logit_softcapping", 0.0)
        scaled = self.width // self.heads if self.layers == LAYERS_OF_27B else self.head_dim
        self.attention_scale = 1.0 / sqrt(scaled)

    def local_layers(self, metadata: Metadata) -> list[bool]:
        """Which layers have the window: all but every sixth, unless the file says otherwise."""
        pattern = metadata.file.get(metadata.key("attention.sliding_window_pattern"), 6)
        if isinstance(pattern, list):
            if len(pattern) != self.layers:
                key = metadata.key("attention.sliding_window_pattern")
                raise UnsupportedModelError(f"{key} has {len(pattern)} entries for {self.layers} layers")
            return [bool(p) and self.window > 0 for p in pattern]
        every = metadata.integer("attention.sliding_window_pattern", 6, low=0)
        return [self.window > 0 and (every == 0 or i % every != every - 1) for i in range(self.layers)]

    def trunk(self, g: Graph, logits_only: bool) -> Value:
        x = g.scale(g.embed("token_embd.weight"), sqrt(self.width))
        for i in range(self.layers):
            layer = f"blk.{i}."
            a = self.attention(g, layer, self.local[i], g.rms_norm(x, layer + "attn_norm.weight", self.eps))
            x = x + g.rms_norm(a, layer + "post_attention_norm.weight", self.eps)
            if logits_only and i == self.layers - 1:
                x = g.select_logit_rows(x)
            f = self.feed_forward(g, layer, g.rms_norm(x, layer + "ffn_norm.weight", self.eps))
            x = x + g.rms_norm(f, layer + "post_ffw_norm.weight", self.eps)
        return g.rms_norm(x, "output_norm.weight", self.eps)

    def attention(self, g: Graph, layer: str, local: bool, h: Value) -> Value:
        q = self.rope(g, g.linear(h, layer + "attn_q.weight"), layer + "attn_q_norm.weight", local)
        k = self.rope(g, g.linear(h, layer + "attn_k.weight"), layer + "attn_k_norm.weight", local)
        v = g.linear(h, layer + "attn_v.weight")
        a = g.attention(q, k, v, self.head_dim, self.attention_scale, window=self.window if local else 0)
        return g.linear(a, layer + "attn_output.weight")

    def rope(self, g: Graph, x: Value, norm: str, local: bool) -> Value:
        x = g.rms_norm(x, norm, self.eps, self.head_dim)
        if local:
            return g.rope(x, self.head_dim, self.local_base, "halves")
        return g.rope(x, self.head_dim, self.global_base, "halves", linear_scale=self.rope_scale)

    def feed_forward(self, g: Graph, layer: str, h: Value) -> Value:
        gate = g.linear(h, layer + "ffn_gate.weight")
        up = g.linear(h, layer + "ffn_up.weight")
        return g.linear(g.geglu(gate, up), layer + "ffn_down.weight")

    def head(self, g: Graph, x: Value) -> Value:
        logits = super().head(g, x)
        return g.softcap(logits, self.softcap) if self.softcap else logits
