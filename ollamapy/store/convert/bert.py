"""Turns a sentence-transformers BERT (safetensors, config.json, vocab.txt) into a GGUF of architecture bert.

Tensor and metadata names are those that llama.cpp and Ollama read; matrices become F16, biases, norms and the
token types stay F32.
"""

from __future__ import annotations

from typing import Any

from ollamapy.store.convert.config import MOST_LAYERS, Config, Files, read_json, read_object
from ollamapy.store.convert.decoder import tensor_type
from ollamapy.store.convert.safetensors import Source
from ollamapy.store.convert.tokenizer import CONTROL, NORMAL
from ollamapy.store.errors import ConversionError
from ollamapy.store.gguf_writer import Metadata, Tensor

_WORD_START = "▁"  # SentencePiece's mark for a blank; continuations carry no mark
_SPECIAL = {"cls": "[CLS]", "mask": "[MASK]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]"}
_KEYS = {  # GGUF's names of the special tokens; the format spells the separator so
    "cls": "cls",
    "mask": "mask",
    "pad": "padding",
    "sep": "seperator",
    "unk": "unknown",
}

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
    raise ConversionError(f"the safetensors file has a tensor {name!r} that no BERT has")


def _words(files: Files) -> list[str]:
    """The words in order, by vocab.txt or by tokenizer.json, which says the same."""
    if "vocab.txt" in files:
        words = files["vocab.txt"].read_text("utf-8", "replace").split("\n")
        return words[:-1] if words[-1] == "" else words
    if "tokenizer.json" not in files:
        raise ConversionError("unknown tokenizer format")
    model = read_object(files, "tokenizer.json").get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ConversionError("tokenizer.json has no words with numbers from 0 on")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _special_words(files: Files) -> set[str]:
    values = {**read_object(files, "tokenizer_config.json"), **read_object(files, "special_tokens_map.json")}
    chosen = [values.get(f"{name}_token", word) for name, word in _SPECIAL.items()]
    return {str(value["content"] if isinstance(value, dict) else value) for value in chosen}


def _tokenizer_rows(files: Files, config: Config) -> Metadata:
    """Tokens in llama.cpp's WordPiece form, their types, and the ids of the special ones."""
    words = _words(files)
    if len(words) != config.integer("vocab_size"):
        raise ConversionError(f"there are {len(words)} words, config.json says {config.get('vocab_size')}")
    special = _special_words(files)
    tokens = [
        word if word in special else word[2:] if word.startswith("##") else _WORD_START + word
        for word in words
    ]
    rows: Metadata = [
        ("tokenizer.ggml.model", "string", "bert"),
        ("tokenizer.ggml.pre", "string", "default"),
        ("tokenizer.ggml.token_type_count", "u32", config.integer("type_vocab_size", 2)),
        ("tokenizer.ggml.tokens", "strings", tokens),
        ("tokenizer.ggml.scores", "f32s", [-1000.0] * len(tokens)),  # WordPiece has none; readers expect some
        ("tokenizer.ggml.token_type", "i32s", [CONTROL if word in special else NORMAL for word in words]),
    ]
    places = {word: number for number, word in enumerate(words)}
    for name, key in _KEYS.items():
        if _SPECIAL[name] not in places:
            raise ConversionError(f"the vocabulary has no {_SPECIAL[name]}")
        rows.append((f"tokenizer.ggml.{key}_token_id", "u32", places[_SPECIAL[name]]))
    settings = read_object(files, "tokenizer_config.json")
    lowercase, strip = settings.get("do_lower_case"), settings.get("strip_accents")
    if lowercase is False:
        rows.append(("tokenizer.ggml.normalizer.lowercase", "bool", False))
    if isinstance(strip, bool):
        rows.append(("tokenizer.ggml.normalizer.strip_accents", "bool", strip))
    return rows


def _modules(files: Files) -> list[dict[str, Any]]:
    """The steps of a sentence-transformers model; plain BERTs have none."""
    value = read_json(files, "modules.json") if "modules.json" in files else []
    if not isinstance(value, list) or not all(isinstance(module, dict) for module in value):
        raise ConversionError("modules.json is not a list of modules")
    return value


def _pooling(files: Files, modules: list[dict[str, Any]]) -> int:
    """How token vectors become one: what the Pooling module says, the mean without one."""
    folders = [str(m.get("path", "")) for m in modules if str(m.get("type", "")).endswith(".Pooling")]
    name = f"{folders[0].rstrip('/')}/config.json" if folders else "1_Pooling/config.json"
    if name not in files and not folders:
        return _POOLING["pooling_mode_mean_tokens"]
    config = read_object(files, name)
    chosen = [number for key, number in _POOLING.items() if config.get(key)]
    if len(chosen) != 1:
        raise ConversionError(f"{name} asks for a pooling that GGUF does not know")
    return chosen[0]


def bert_metadata(files: Files, config: Config) -> Metadata:
    """Raises ConversionError."""
    modules = _modules(files)
    config.refuse("hidden_act", "gelu")
    config.refuse("position_embedding_type", "absolute")
    return [
        ("general.architecture", "string", "bert"),
        ("bert.attention.causal", "bool", False),
        ("bert.attention.head_count", "u32", config.integer("num_attention_heads")),
        ("bert.attention.layer_norm_epsilon", "f32", config.number("layer_norm_eps", 1e-12)),
        ("bert.block_count", "u32", config.integer("num_hidden_layers")),
        ("bert.context_length", "u32", config.integer("max_position_embeddings")),
        ("bert.embedding_length", "u32", config.integer("hidden_size")),
        ("bert.feed_forward_length", "u32", config.integer("intermediate_size")),
        ("bert.normalize_embeddings", "bool", any(str(m.get("type")).endswith("Normalize") for m in modules)),
        ("bert.pooling_type", "u32", _pooling(files, modules)),
        *_tokenizer_rows(files, config),
    ]


def bert_tensors(config: Config, sources: dict[str, Source]) -> list[Tensor]:
    """The tensors of the GGUF. Raises ConversionError for one too many and one too few."""
    tensors: list[Tensor] = []
    for name, source in sources.items():
        target = _gguf_name(name)
        if target is None:
            continue
        kind = tensor_type(source)
        kind = "F32" if target == "token_types.weight" else kind
        tensors.append(Tensor(target, source.shape, kind, source.rows))
    have = {tensor.name for tensor in tensors}
    layers = range(config.integer("num_hidden_layers", most=MOST_LAYERS))
    kinds = ("weight", "bias")
    need = {f"blk.{i}.{part}.{kind}" for i in layers for part in _LAYER.values() for kind in kinds}
    need |= set(_TOP.values())
    if missing := sorted(need - have):
        raise ConversionError(f"the safetensors files have no tensor for {missing[0]}")
    return tensors
