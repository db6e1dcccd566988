"""What a GGUF's header says about a model, for listings and for checking a request before anything is
loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ollamapy._core import GGUFFile

# llama.cpp's file types by their number in general.file_type
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}

_RUNNABLE = re.compile(r"(F32|F16|BF16|Q4_0|Q4_1|Q5_0|Q5_1|Q8_0|Q[2-6]_K(_[SML])?)")


def is_runnable(file_type: str) -> bool:
    """Whether we have kernels for a file type's tensors, by its name in any case."""
    return _RUNNABLE.fullmatch(file_type.upper()) is not None


@dataclass(frozen=True)
class Facts:
    """The header of a model file."""

    architecture: str
    parameters: int
    file_type: str
    context_length: int
    embedding_length: int
    listed_lengths: tuple[int, int]  # of context and embedding as listings show them, 0: not
    pooled: bool  # the file says how token vectors become one: a model for embeddings
    chat_template: str | None
    bos: str  # texts of the special tokens, "" without one
    eos: str
    add_bos: bool

    @property
    def parameter_size(self) -> str:
        return human_number(self.parameters)


def human_number(count: int) -> str:
    """1.5B, 134.52M, 512K: as model listings write parameter counts."""
    for unit, size, digits in (("T", 1e12, 1), ("B", 1e9, 1), ("M", 1e6, 2), ("K", 1e3, 0)):
        if count >= size:
            return f"{count / size:.{digits}f}{unit}"
    return str(count)


def _int(file: GGUFFile, key: str) -> int:
    value = file.get(key, 0)
    return value if isinstance(value, int) else 0


def file_type(file: GGUFFile) -> str:
    """The name of a file's quantization: what it says, else the type of most of its values."""
    number = file.get("general.file_type")
    if number in _FILE_TYPES:
        return _FILE_TYPES[number]
    sizes: Counter[str] = Counter()
    for tensor in file.tensors():
        sizes[tensor.type] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0] if sizes else "unknown"


def _special(file: GGUFFile, kind: str, tokens: list[str]) -> str:
    number = file.get(f"tokenizer.ggml.{kind}_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""


def _listed_lengths(file: GGUFFile, architecture: str) -> tuple[int, int]:
    """Context and embedding length if they stand between the architecture's name and the tokenizer.

    Ollama reads only so far for a listing, and clients compare what is listed: files of its own converter, whose
    keys are sorted, have none there if their architecture sorts before "general".
    """
    found, named = {"context_length": 0, "embedding_length": 0}, False
    for key in file.keys():  # noqa: SIM118 (not a dict)
        if named and key.startswith("tokenizer."):
            break
        named = named or key == "general.architecture"
        name = key.removeprefix(f"{architecture}.")
        if named and name in found:
            found[name] = _int(file, key)
    return found["context_length"], found["embedding_length"]


def read_facts(file: GGUFFile) -> Facts:
    architecture = str(file.get("general.architecture", ""))
    template = file.get("tokenizer.chat_template")
    tokens: Any = file.get("tokenizer.ggml.tokens", []) if template else []
    return Facts(
        architecture=architecture,
        parameters=sum(math.prod(tensor.shape) for tensor in file.tensors()),
        file_type=file_type(file),
        context_length=_int(file, f"{architecture}.context_length"),
        embedding_length=_int(file, f"{architecture}.embedding_length"),
        listed_lengths=_listed_lengths(file, architecture),
        pooled=file.get(f"{architecture}.pooling_type") is not None,
        chat_template=template if isinstance(template, str) and template else None,
        bos=_special(file, "bos", tokens),
        eos=_special(file, "eos", tokens),
        add_bos=bool(file.get("tokenizer.ggml.add_bos_token", file.get("tokenizer.ggml.model") == "llama")),
    )


@lru_cache(maxsize=256)
def _cached(path: str, size: int, modified: int) -> Facts:
    return read_facts(GGUFFile(path))


def facts_of(path: Path) -> Facts:
    """The facts of a file; files do not change under their digest, so each is read once.

    Raises GGUFError for a malformed file, OSError when it cannot be read.
    """
    status = path.stat()
    return _cached(str(path), status.st_size, status.st_mtime_ns)
