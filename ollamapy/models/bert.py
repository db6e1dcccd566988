"""BERT (Devlin et al. 2018) as an embedding model: MiniLM, BGE and their like.

Every token sees the whole text; positions are learned; the norms come after each half of a layer. The hidden
states of a text become one vector of length 1.
"""

from __future__ import annotations

from math import sqrt

from ollamapy._core import Graph, Value
from ollamapy.models.architecture import Architecture, linear, weights, with_bias
from ollamapy.models.metadata import Metadata
from ollamapy.types import UnsupportedModelError


class Bert(Architecture):
    TENSORS = weights("token_embd", "position_embd", "token_types") | with_bias("token_embd_norm")
    LAYER_TENSORS = with_bias(
        "attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm",
        "ffn_up", "ffn_down", "layer_output_norm",
    )  # fmt: skip
    bidirectional = True

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(metadata)
        self.eps = metadata.positive("attention.layer_norm_epsilon")
        metadata.refuse("attention.causal", False)
        positions = metadata.file.tensor("position_embd.weight").shape[1]
        if positions < self.context_length:
            key = metadata.key("context_length")
            raise UnsupportedModelError(f"{key} is {self.context_length} but there are {positions} positions")

    def trunk(self, g: Graph, logits_only: bool) -> Value:
        x = g.embed("token_embd.weight")
        if g.has("token_types.weight"):
            x = x + g.embed("token_types.weight", "zero")  # every text is "sentence A"
        x = x + g.embed("position_embd.weight", "position")
        x = self.norm(g, x, "token_embd_norm")
        for i in range(self.layers):
            x = self.norm(g, x + self.attention(g, f"blk.{i}.", x), f"blk.{i}.attn_output_norm")
            x = self.norm(g, x + self.feed_forward(g, f"blk.{i}.", x), f"blk.{i}.layer_output_norm")
        return x

    def attention(self, g: Graph, layer: str, x: Value) -> Value:
        q = linear(g, x, layer + "attn_q")
        k = linear(g, x, layer + "attn_k")
        v = linear(g, x, layer + "attn_v")
        a = g.attention(q, k, v, self.head_dim, 1.0 / sqrt(self.head_dim), bidirectional=True)
        return linear(g, a, layer + "attn_output")

    def feed_forward(self, g: Graph, layer: str, x: Value) -> Value:
        h = g.gelu(linear(g, x, layer + "ffn_up"), "none")
        return linear(g, h, layer + "ffn_down")

    def norm(self, g: Graph, x: Value, name: str) -> Value:
        return g.layer_norm(x, f"{name}.weight", f"{name}.bias", self.eps)

    def pooled(self, g: Graph) -> Value:
        """The graph of the model: one row per text."""
        return g.pool(self.trunk(g, logits_only=False), self.pooling, normalize=True)
