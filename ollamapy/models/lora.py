"""LoRA (Hu et al. 2021): a product W x of the graph becomes W x + s B (A x), with A and B from a second file.

The adapter is a GGUF of the type "adapter" as llama.cpp's convert_lora_to_gguf.py writes it: for a weight NAME
the matrices NAME.lora_a [rank][inputs] and NAME.lora_b [outputs][rank], and adapter.lora.alpha; s is alpha / rank.
The base stays quantized as it is, so nothing is rounded twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ollamapy._core import GGUFFile, Graph, Value, Weights
from ollamapy.models import TENSOR_TYPES, check
from ollamapy.types import UnsupportedModelError

_A, _B = ".lora_a", ".lora_b"
_NOT_PRODUCTS = ("token_embd.weight",)  # looked up, not multiplied


@dataclass(frozen=True)
class Adapter:
    """The low-rank pairs of a file: by the weight that they add to, the factor s."""

    file: GGUFFile
    factors: dict[str, float]


def read_adapter(file: GGUFFile, base: GGUFFile) -> Adapter:
    """Check an adapter against its base.

    Raises UnsupportedModelError for a file that is none, that belongs to another architecture or to other shapes,
    or that changes what is no product of the graph.
    """
    if file.get("general.type") != "adapter" or file.get("adapter.type") != "lora":
        raise UnsupportedModelError("the file is no LoRA adapter")
    architecture = base.get("general.architecture")
    if file.get("general.architecture") != architecture:
        found = file.get("general.architecture")
        raise UnsupportedModelError(
            f"the adapter is for architecture '{found}', the model is '{architecture}'"
        )
    alpha = file.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise UnsupportedModelError("adapter.lora.alpha is missing")
    shapes = {tensor.name: tensor.shape for tensor in file.tensors()}
    for tensor in file.tensors():
        if tensor.type not in TENSOR_TYPES:
            raise UnsupportedModelError(f"tensor {tensor.name} of the adapter has type {tensor.type}")
    factors: dict[str, float] = {}
    for name in shapes:
        weight = name.removesuffix(_A).removesuffix(_B)
        if weight == name or {weight + _A, weight + _B} - shapes.keys():
            raise UnsupportedModelError(f"tensor {name} of the adapter is not half of a low-rank pair")
        if weight in factors:
            continue
        rank = _check_shapes(weight, shapes[weight + _A], shapes[weight + _B], base)
        factors[weight] = alpha / rank if alpha else 1.0  # alpha 0: not scaled, as llama.cpp has it
    if not factors:
        raise UnsupportedModelError("the adapter has no tensors")
    return Adapter(file, factors)


def _check_shapes(weight: str, a: tuple[int, ...], b: tuple[int, ...], base: GGUFFile) -> int:
    """The rank of a pair; shapes name the contiguous dimension first. Raises UnsupportedModelError."""
    try:
        whole = base.tensor(weight).shape
    except KeyError:
        raise UnsupportedModelError(f"the adapter changes {weight}, which the model does not have") from None
    if weight in _NOT_PRODUCTS or len(whole) != 2:
        raise UnsupportedModelError(f"an adapter of {weight} is not supported")
    if len(a) != 2 or len(b) != 2 or a[1] != b[0] or (a[0], b[1]) != tuple(whole):
        raise UnsupportedModelError(f"the adapter's {weight} has shapes {a} and {b}, the model's {whole}")
    return a[1]


def check_adapter(path: str, base: str) -> None:
    """Whether an adapter can be applied to a model; only headers are read.

    Raises UnsupportedModelError, GGUFError, OSError.
    """
    model = GGUFFile(base)
    check(model)
    read_adapter(GGUFFile(path), model)


class AdaptedGraph:
    """A graph whose products have their low-rank part added; everything else is the graph's."""

    def __init__(self, graph: Graph, adapter: Adapter) -> None:
        self._graph = graph
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def linear(self, x: Value, weight: str, bias: str = "") -> Value:
        whole = self._graph.linear(x, weight, bias)
        factor = self._adapter.factors.get(weight)
        if factor is None:
            return whole
        low = self._graph.linear(self._graph.linear(x, weight + _A), weight + _B)
        return whole + self._graph.scale(low, factor)


def new_graph(weights: Weights, adapter: Adapter | None) -> Graph:
    """An empty graph, whose products are adapted if there is an adapter."""
    graph = Graph(weights)
    return graph if adapter is None else cast(Graph, AdaptedGraph(graph, adapter))
