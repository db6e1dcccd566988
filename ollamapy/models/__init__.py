"""The architectures we run, one file each, by the name that GGUF files give them."""

from __future__ import annotations

from ollamapy._core import GGUFFile
from ollamapy.models.architecture import Architecture
from ollamapy.models.bert import Bert
from ollamapy.models.gemma3 import Gemma3
from ollamapy.models.llama import Llama
from ollamapy.models.metadata import Metadata
from ollamapy.models.qwen3 import Qwen3
from ollamapy.types import UnsupportedModelError

ARCHITECTURES: dict[str, type[Architecture]] = {
    "llama": Llama,
    "qwen3": Qwen3,
    "gemma3": Gemma3,
    "bert": Bert,
}

TENSOR_TYPES = frozenset(
    ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
)


def check(file: GGUFFile) -> Architecture:
    """The architecture of a file with its hyperparameters.

    Only the header is looked at. Raises UnsupportedModelError for a file that we do not run: an
    architecture, a tensor type or a hyperparameter that we do not know, or a tensor that would change the
    result and that our graph has no place for.
    """
    metadata = Metadata(file)
    kind = ARCHITECTURES.get(metadata.architecture)
    if kind is None:
        raise UnsupportedModelError(f"architecture '{metadata.architecture}' is not supported")
    tensors = file.tensors()
    for tensor in tensors:
        if tensor.type not in TENSOR_TYPES:
            raise UnsupportedModelError(
                f"tensor {tensor.name} has type {tensor.type}, which is not supported"
            )
    try:
        architecture = kind(metadata)
        vocabulary = file.tensor("token_embd.weight").shape
    except KeyError as error:
        raise UnsupportedModelError(f"tensor {error.args[0]} is missing") from error
    if len(vocabulary) != 2 or vocabulary[0] != architecture.width:
        raise UnsupportedModelError(f"tensor token_embd.weight has shape {vocabulary}")
    for tensor in tensors:
        if not architecture.knows(tensor.name):
            name = metadata.architecture
            raise UnsupportedModelError(f"tensor {tensor.name} is not supported in architecture '{name}'")
    return architecture
