"""Small vocabularies as GGUF files, and text that tokenizers stumble over."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from hypothesis import strategies as st

from ollamapy._core import GGUFFile, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_counter = itertools.count()


def write_vocabulary(folder: Path, model: str | None, fields: Mapping[str, Any]) -> GGUFFile:
    """A file with tokenizer.ggml.FIELD (a name with a dot is the whole key); None leaves a field out."""
    path = folder / f"vocabulary-{next(_counter)}.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in {"model": model, **fields}.items():
        key = name if name.startswith("general.") else f"tokenizer.ggml.{name}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_int64(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GGUFFile(str(path))


def tokenizer(folder: Path, model: str, **fields: Any) -> Tokenizer:
    return Tokenizer(write_vocabulary(folder, model, fields))


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in GPT-2's vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def byte_text(data: bytes) -> str:
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in data)


def byte_vocabulary(
    extra: Sequence[tuple[str, int]] = (), merges: Sequence[str] = ("a b",), **fields: Any
) -> dict[str, Any]:
    """256 byte tokens (the id is the byte), then extra tokens with their types."""
    return {
        "pre": "gpt-2",
        "tokens": [*byte_alphabet(), *(text for text, _ in extra)],
        "token_type": [*[NORMAL] * 256, *(kind for _, kind in extra)],
        "merges": list(merges),
        **fields,
    }


# Oracles differ in the version of Unicode that they know. What was assigned in 3.2 means the same to all, but
# for a few characters that later versions changed.
_CHANGED = {0x166D, 0x1734, 0x1885, 0x1886}
ASSIGNED = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs", "Co") and code not in _CHANGED
]
_LETTERS_AND_MARKS = [c for c in ASSIGNED if ord(c) < 0x3000 and unicodedata.category(c)[0] in "LMN"]
_OTHERS = [c for c in ASSIGNED if unicodedata.category(c)[0] not in "LMN"]
_PIECES = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "'", "''",
    "'s1", "'x", "the", "and", "light", "of", "colour", "Rays", "refraction", "don't", "a1", "1a", "0",
    "1", "12", "123", "1234", "12345", "½", "Ⅷ", "١٢٣", "é", "ñ", "Å", "ß", "İ", "Σ", "中文", "日本語",
    "한국어", "हिन्दी", "ไทย", "क्ष", "👍", "👨\u200d👩\u200d👧", "🇩🇪", "!", "...", "?!", "--", "_", "$",
    "+", "<=", "^", "~", "|", "`", "@", "#", "&", "(", ")", "[", "]", "{", "}", "\\", "/", "http://",
    "«", "»", "，", "。", "\u2014", "\u200b", "\u200d", "\ufeff", "\u0301", "\u0301\u0302", "\ue000",
    "\u00ad", "\x00", "\x01", "\x7f",
]  # fmt: skip
_SPACES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b",
]  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Text of words, white space, digits, punctuation and characters of every kind."""
    piece = st.one_of(
        st.sampled_from(_PIECES),
        st.sampled_from(_SPACES),
        st.sampled_from(_SPACES),
        st.sampled_from(_LETTERS_AND_MARKS),
        st.sampled_from(_OTHERS),
        st.sampled_from(ASSIGNED),
        st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12),
        st.builds(str.__mul__, st.sampled_from(["a", " ", "\n", "1", ".", "é", "中"]), st.integers(1, 30)),
    )
    return st.lists(piece, max_size=20).map("".join)
