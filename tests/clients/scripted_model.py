"""A llama whose answers are known: what it writes next depends on its last token alone.

Embeddings are one-hot, attention and feed-forward add nothing, and the output matrix is a table from each
token to the next. A prompt ends with a marker, a token of its own, that TEMPLATE chooses by the conversation:
so a TEMPLATE can make the model call a tool, and answer when, and only when, the call and its result came
back as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy.store.gguf_writer import Tensor, gguf_chunks

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_HEAD = 32
_HIDDEN = 32
_SURE = 40.0  # the logit of the next token, above zero for all others


def cut(text: str, used: set[str]) -> list[str]:
    """The shortest pieces of a text that differ from each other and from those used, which they join.

    Tags, escapes and words come in fragments then, as a model may well write them.
    """
    pieces: list[str] = []
    piece = ""
    for character in text:
        piece += character
        if piece not in used:
            pieces.append(piece)
            used.add(piece)
            piece = ""
    while piece:  # the end has no piece of its own: it joins the one before
        assert pieces, f"{text!r} is a piece of another text"
        piece = pieces.pop() + piece
        if piece not in used:
            pieces.append(piece)
            used.add(piece)
            piece = ""
    return pieces


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


_BYTES = _byte_characters()


def _encoded(piece: str) -> str:
    return "".join(_BYTES[byte] for byte in piece.encode())


class _Vocabulary:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.types: list[int] = []
        self.ids: dict[str, int] = {}
        for character in _BYTES:
            self.add(character, _NORMAL)
        self.eos = self.add("<|eos|>", _CONTROL)

    def add(self, text: str, kind: int) -> int:
        if text not in self.ids:
            self.ids[text] = len(self.texts)
            self.texts.append(text)
            self.types.append(kind)
        return self.ids[text]


def build(path: Path, scripts: Mapping[str, str]) -> Path:
    """Write the GGUF of a model that says scripts[marker] after a marker, and then ends."""
    vocabulary = _Vocabulary()
    links: dict[int, int] = {}
    used: set[str] = set()
    for marker, text in scripts.items():
        chain = [vocabulary.add(marker, _USER_DEFINED)]
        chain += [vocabulary.add(_encoded(piece), _NORMAL) for piece in cut(text, used)]
        links.update(zip(chain, [*chain[1:], vocabulary.eos], strict=True))
    vocabulary.add(_BYTES[0x20] * 2, _NORMAL)  # the product of the only merge
    while len(vocabulary.texts) % _HEAD:
        vocabulary.add(f"<|unused{len(vocabulary.texts)}|>", _CONTROL)
    size = len(vocabulary.texts)
    table = np.zeros((size, size), np.float32)  # (next token, last token)
    for last in range(size):
        table[links.get(last, vocabulary.eos), last] = _SURE
    path.write_bytes(b"".join(gguf_chunks(_metadata(vocabulary, size), _tensors(table))))
    return path


def _metadata(vocabulary: _Vocabulary, width: int) -> list[Any]:
    return [
        ("general.architecture", "string", "llama"),
        ("general.name", "string", "scripted"),
        ("llama.vocab_size", "u32", width),
        ("llama.context_length", "u32", 8192),
        ("llama.embedding_length", "u32", width),
        ("llama.block_count", "u32", 1),
        ("llama.feed_forward_length", "u32", _HIDDEN),
        ("llama.attention.head_count", "u32", width // _HEAD),
        ("llama.attention.head_count_kv", "u32", 1),
        ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-6),
        ("llama.rope.dimension_count", "u32", _HEAD),
        ("tokenizer.ggml.model", "string", "gpt2"),
        ("tokenizer.ggml.pre", "string", "default"),
        ("tokenizer.ggml.tokens", "strings", vocabulary.texts),
        ("tokenizer.ggml.token_type", "i32s", vocabulary.types),
        ("tokenizer.ggml.merges", "strings", [f"{_BYTES[0x20]} {_BYTES[0x20]}"]),
        ("tokenizer.ggml.eos_token_id", "u32", vocabulary.eos),
        ("tokenizer.ggml.add_bos_token", "bool", False),
    ]


def _tensors(table: NDArray[np.float32]) -> list[Tensor]:
    """One block that adds nothing; the norms give a one-hot row back as it was."""
    width = len(table)
    unit = np.full(width, width**-0.5, np.float32)
    values = {
        "token_embd.weight": np.eye(width, dtype=np.float32),
        "blk.0.attn_norm.weight": unit,
        "blk.0.attn_q.weight": np.zeros((width, width), np.float32),
        "blk.0.attn_k.weight": np.zeros((_HEAD, width), np.float32),
        "blk.0.attn_v.weight": np.zeros((_HEAD, width), np.float32),
        "blk.0.attn_output.weight": np.zeros((width, width), np.float32),
        "blk.0.ffn_norm.weight": unit,
        "blk.0.ffn_gate.weight": np.zeros((_HIDDEN, width), np.float32),
        "blk.0.ffn_up.weight": np.zeros((_HIDDEN, width), np.float32),
        "blk.0.ffn_down.weight": np.zeros((width, _HIDDEN), np.float32),
        "output_norm.weight": unit,
        "output.weight": table,
    }
    return [Tensor(name, array.shape, "F32", lambda array=array: array) for name, array in values.items()]
