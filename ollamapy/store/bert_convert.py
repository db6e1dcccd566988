"""Turns a sentence-transformers BERT (safetensors, config.json, vocab.txt) into a GGUF of architecture bert.

Tensor and metadata names are those that llama.cpp and Ollama read; matrices become F16, biases, norms and the
token types stay F32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy.store.errors import PackError
from ollamapy.store.gguf_writer import Tensor, ValueType, gguf_chunks

_NORMAL, _CONTROL = 1, 3  # token types of GGUF vocabularies
_WORD_START = "▁"  # SentencePiece's mark for a blank; continuations carry no mark
_F16_FILE = 1

_TOP = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_POOLING = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}
_UNUSED = ("embeddings.position_ids", "pooler.")  # the pooler belongs to a classifier


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PackError(f"cannot read {path.name}: {error}") from None
    if not isinstance(value, dict):
        raise PackError(f"{path.name} is not a JSON object")
    return value


def _gguf_name(name: str) -> str | None:
    """The GGUF name of a tensor, None for one that an embedding does not need."""
    name = name.removeprefix("bert.")
    if name.startswith(_UNUSED):
        return None
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if parts[:2] == ["encoder", "layer"] and len(parts) > 4:
        module, kind = ".".join(parts[3:-1]), parts[-1]
        if module in _LAYER and kind in ("weight", "bias"):
            return f"blk.{int(parts[2])}.{_LAYER[module]}.{kind}"
    raise PackError(f"the safetensors file has a tensor {name!r} that no BERT has")


def _vocabulary(folder: Path) -> tuple[list[str], list[int], dict[str, int]]:
    """Tokens in llama.cpp's WordPiece form, their types, and the ids of the special ones by their text."""
    try:
        words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"cannot read vocab.txt: {error}") from None
    if words[-1] == "":
        words.pop()
    special = {str(word) for word in _special_words(folder)}
    tokens: list[str] = []
    types: list[int] = []
    for word in words:
        types.append(_CONTROL if word in special else _NORMAL)
        if word in special:
            tokens.append(word)
        else:
            tokens.append(word[2:] if word.startswith("##") else _WORD_START + word)
    return tokens, types, {word: i for i, word in enumerate(words) if word in special}


def _special_words(folder: Path) -> list[str]:
    config = _read_json(folder / "special_tokens_map.json")
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    values = [config.get(name) for name in names]
    return [value["content"] if isinstance(value, dict) else value for value in values if value]


def _pooling(folder: Path) -> int:
    config = _read_json(folder / "1_Pooling" / "config.json")
    chosen = [number for name, number in _POOLING.items() if config.get(name)]
    if len(chosen) != 1:
        raise PackError("1_Pooling/config.json asks for a pooling that GGUF does not know")
    return chosen[0]


def _metadata(folder: Path, config: dict[str, Any], name: str) -> list[tuple[str, ValueType, object]]:
    tokens, types, special = _vocabulary(folder)
    try:
        if len(tokens) != config["vocab_size"]:
            raise PackError(f"vocab.txt has {len(tokens)} words, config.json says {config['vocab_size']}")
        normalize = any(
            module.get("type", "").endswith("Normalize") for module in _modules(folder / "modules.json")
        )
        rows: list[tuple[str, ValueType, object]] = [
            ("general.architecture", "string", "bert"),
            ("general.name", "string", name),
            ("general.file_type", "u32", _F16_FILE),
            ("general.quantization_version", "u32", 2),
            ("bert.attention.causal", "bool", False),
            ("bert.attention.head_count", "u32", config["num_attention_heads"]),
            ("bert.attention.layer_norm_epsilon", "f32", config["layer_norm_eps"]),
            ("bert.block_count", "u32", config["num_hidden_layers"]),
            ("bert.context_length", "u32", config["max_position_embeddings"]),
            ("bert.embedding_length", "u32", config["hidden_size"]),
            ("bert.feed_forward_length", "u32", config["intermediate_size"]),
            ("bert.normalize_embeddings", "bool", normalize),
            ("bert.pooling_type", "u32", _pooling(folder)),
            ("tokenizer.ggml.model", "string", "bert"),
            ("tokenizer.ggml.pre", "string", "default"),
            ("tokenizer.ggml.token_type_count", "u32", config["type_vocab_size"]),
        ]
    except KeyError as error:
        raise PackError(f"config.json has no {error}") from None
    for key, word in (
        ("cls", "[CLS]"),
        ("mask", "[MASK]"),
        ("padding", "[PAD]"),
        ("seperator", "[SEP]"),  # the format spells it so
        ("unknown", "[UNK]"),
    ):
        if word not in special:
            raise PackError(f"the vocabulary has no {word}")
        rows.append((f"tokenizer.ggml.{key}_token_id", "u32", special[word]))
    rows += [
        ("tokenizer.ggml.tokens", "strings", tokens),
        ("tokenizer.ggml.scores", "f32s", [-1000.0] * len(tokens)),  # WordPiece has none; readers expect some
        ("tokenizer.ggml.token_type", "i32s", types),
    ]
    return rows


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PackError(f"cannot read {path.name}: {error}") from None
    if not isinstance(value, list) or not all(isinstance(module, dict) for module in value):
        raise PackError(f"{path.name} is not a list of modules")
    return value


def _loader(path: Path, name: str) -> Callable[[], NDArray[np.float32]]:
    def load() -> NDArray[np.float32]:
        from safetensors import safe_open

        with safe_open(str(path), framework="numpy") as file:
            return np.asarray(file.get_tensor(name), dtype=np.float32)

    return load


def convert_bert(folder: Path, name: str) -> Iterator[bytes]:
    """The bytes of an F16 GGUF made of a model folder.

    Raises PackError when the folder is not a BERT with its vocabulary and pooling; nothing is yielded then.
    """
    from safetensors import SafetensorError, safe_open

    config = _read_json(folder / "config.json")
    if "BertModel" not in config.get("architectures", []):
        found = config.get("architectures")
        raise PackError(f"safetensors of architecture {found} cannot be converted, only BertModel")
    path = folder / "model.safetensors"
    tensors: list[Tensor] = []
    try:
        with safe_open(str(path), framework="numpy") as file:
            for source in file.keys():  # noqa: SIM118 (not a dict)
                target = _gguf_name(source)
                if target is None:
                    continue
                shape = tuple(file.get_slice(source).get_shape())
                matrix = len(shape) == 2 and target != "token_types.weight"
                tensors.append(Tensor(target, shape, "F16" if matrix else "F32", _loader(path, source)))
    except (OSError, SafetensorError) as error:
        raise PackError(f"cannot read model.safetensors: {error}") from None
    have = {tensor.name for tensor in tensors}
    layers = range(int(config.get("num_hidden_layers", 0)))
    kinds = ("weight", "bias")
    need = {f"blk.{i}.{part}.{kind}" for i in layers for part in _LAYER.values() for kind in kinds}
    need |= set(_TOP.values())
    if missing := sorted(need - have):
        raise PackError(f"the safetensors file has no tensor for {missing[0]}")
    tensors.sort(key=lambda tensor: tensor.name)
    return gguf_chunks(_metadata(folder, config, name), tensors)
