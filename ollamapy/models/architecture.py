"""What every architecture has in common: its size, the tensors it knows and the two ways its graph can
end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from ollamapy._core import Graph, Value
from ollamapy.models.metadata import MOST_CONTEXT, MOST_LAYERS, Metadata
from ollamapy.types import UnsupportedModelError

Pooling = Literal["mean", "cls", "last"]

# {architecture}.pooling_type in the file
POOLING_TYPES: dict[int, Pooling] = {1: "mean", 2: "cls", 3: "last"}


class Architecture(ABC):
    """Hyperparameters of one file and the graph that they stand for.

    Shapes in the comments of the architectures: [rows, width], where rows are the tokens of a step.
    """

    TENSORS: ClassVar[frozenset[str]]
    """Names of tensors outside the layers."""
    LAYER_TENSORS: ClassVar[frozenset[str]]
    """Names inside a layer, after "blk.0."."""
    IGNORED: ClassVar[tuple[str, ...]] = ()
    """Prefixes of names that a file may have and that text does not need."""
    bidirectional: ClassVar[bool] = False

    def __init__(self, metadata: Metadata) -> None:
        self.name = metadata.architecture
        self.context_length = metadata.integer("context_length", high=MOST_CONTEXT)
        self.width = metadata.integer("embedding_length")
        self.layers = metadata.integer("block_count", high=MOST_LAYERS)
        self.heads = metadata.integer("attention.head_count")
        self.kv_heads = metadata.integer("attention.head_count_kv", self.heads)
        if self.heads % self.kv_heads:
            key = metadata.key("attention.head_count")
            raise UnsupportedModelError(f"{key} {self.heads} is no multiple of head_count_kv {self.kv_heads}")
        if not metadata.has("attention.key_length") and self.width % self.heads:
            key = metadata.key("embedding_length")
            raise UnsupportedModelError(f"{key} {self.width} is no multiple of head_count {self.heads}")
        self.head_dim = metadata.integer("attention.key_length", self.width // self.heads)
        value_dim = metadata.integer("attention.value_length", self.head_dim)
        if value_dim != self.head_dim:
            key = metadata.key("attention.value_length")
            raise UnsupportedModelError(f"{key} {value_dim} differs from key_length {self.head_dim}")
        if metadata.integer("expert_count", 0, low=0):
            raise UnsupportedModelError(f"architecture '{self.name}' with experts is not supported")
        pooling = metadata.integer("pooling_type", 0, low=0, high=255)
        if pooling and pooling not in POOLING_TYPES:
            raise UnsupportedModelError(f"{metadata.key('pooling_type')} {pooling} is not supported")
        # A chat model's file says nothing: the mean over all tokens uses all of the text.
        self.pooling: Pooling = POOLING_TYPES.get(pooling, "mean")

    @abstractmethod
    def trunk(self, g: Graph, logits_only: bool) -> Value:
        """Tokens to normalized hidden states [rows, width]; logits_only: of the rows to be sampled."""

    def head(self, g: Graph, x: Value) -> Value:
        """Hidden states to logits [rows, vocabulary], by the embedding's matrix if there is no other."""
        return g.linear(x, "output.weight" if g.has("output.weight") else "token_embd.weight")

    def logits(self, g: Graph) -> Value:
        """The graph of a model that generates."""
        return self.head(g, self.trunk(g, logits_only=True))

    def hidden(self, g: Graph) -> Value:
        """The graph of a causal model that embeds: the hidden states of the rows that are asked for."""
        return g.select_logit_rows(self.trunk(g, logits_only=False))

    def knows(self, tensor: str) -> bool:
        """Whether a tensor of the file is one that the graph uses, or one that it may leave alone."""
        if tensor in self.TENSORS or tensor.startswith(self.IGNORED):
            return True
        block, _, rest = tensor.removeprefix("blk.").partition(".")
        layer = tensor.startswith("blk.") and block.isdecimal() and int(block) < self.layers
        return layer and rest in self.LAYER_TENSORS


def linear(g: Graph, x: Value, name: str) -> Value:
    """x W^T + b; the bias where the file has one."""
    return g.linear(x, f"{name}.weight", f"{name}.bias" if g.has(f"{name}.bias") else "")


def with_bias(*names: str) -> frozenset[str]:
    return frozenset(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


def weights(*names: str) -> frozenset[str]:
    return frozenset(f"{name}.weight" for name in names)
