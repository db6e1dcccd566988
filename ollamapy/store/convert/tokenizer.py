"""Tokenizer files of a model folder as GGUF metadata.

tokenizer.model is SentencePiece; tokenizer.json holds a byte-level BPE (GPT-2's alphabet), or a SentencePiece
vocabulary written as merges. How text is cut into words before the merges has a name in GGUF; a way that has
none here is refused, for its tokens would be wrong in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ollamapy.store.convert.config import Config, Files, read_json, read_object
from ollamapy.store.convert.sentencepiece import read_sentencepiece
from ollamapy.store.errors import ConversionError
from ollamapy.store.gguf_writer import Metadata

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's token types

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIALS = {  # by the name in Hugging Face's files: the name in GGUF
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",  # the format spells it so
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_WORDS % "{1,3}": "llama-bpe", _WORDS % "": "qwen2", _MARKS: "qwen35"}
_NEVER = -1e9  # the score of a piece that no merge makes


@dataclass
class Vocabulary:
    """Tokens by their id."""

    model: str  # GGUF's name of the algorithm: gpt2 or llama
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    pre: str = "default"
    add_space_prefix: bool | None = None

    def add(self, number: int, text: str, special: bool) -> None:
        """An added token: one that text is cut at before anything else. Raises ConversionError for a gap."""
        kind = CONTROL if special else USER_DEFINED
        if number < len(self.tokens):
            if self.tokens[number] not in (text, ""):
                raise ConversionError(f"token {number} is {self.tokens[number]!r} and {text!r}")
            if self.types[number] not in (UNKNOWN, BYTE):
                self.types[number] = kind
            self.tokens[number] = text
            return
        self._fill(number)
        self.tokens.append(text)
        self.types.append(kind)
        if self.scores:
            self.scores.append(-1000.0)

    def _fill(self, count: int) -> None:
        """Stand-ins up to count tokens, for rows of the embedding that no token has."""
        while len(self.tokens) < count:
            self.tokens.append(f"[PAD{len(self.tokens)}]")
            self.types.append(UNUSED)
            if self.scores:
                self.scores.append(-1000.0)

    def check(self, rows: int) -> None:
        """Raises ConversionError when there are more tokens than rows of the embedding."""
        if len(self.tokens) > rows:
            raise ConversionError(f"the tokenizer has {len(self.tokens)} tokens, the embedding {rows} rows")

    def fit(self, rows: int) -> None:
        """As many tokens as rows of the embedding, with stand-ins for the missing."""
        self._fill(rows)
        for number, text in enumerate(self.tokens):
            if not text:  # a number that the files leave out
                self.tokens[number], self.types[number] = f"[PAD{number}]", UNUSED


def _pieces(node: Any, key: str) -> list[dict[str, Any]]:
    """The parts of a pre-tokenizer, post-processor or the like that may be a sequence."""
    if not isinstance(node, dict):
        return []
    if node.get("type") == "Sequence" and isinstance(node.get(key), list):
        return [part for part in node[key] if isinstance(part, dict)]
    return [node]


def pre_tokenizer_name(node: Any) -> str:
    """GGUF's name for the pre_tokenizer of a byte-level BPE. Raises ConversionError."""
    parts = _pieces(node, "pretokenizers")
    splits = [part.get("pattern", {}).get("Regex") for part in parts if part.get("type") == "Split"]
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    if len(splits) == 1 and splits[0] in _SPLITS:
        return _SPLITS[splits[0]]
    if not splits and byte_level and byte_level[0].get("use_regex", True):
        others = [part for part in parts if part.get("type") != "ByteLevel"]
        if not others:
            return "gpt-2"
        if len(others) == 1 and others[0].get("type") == "Digits" and others[0].get("individual_digits"):
            return "smollm"
    raise ConversionError("the pre-tokenizer of tokenizer.json is not supported")


def _merges(node: Any) -> list[tuple[str, str]]:
    found = []
    for item in node if isinstance(node, list) else []:
        pair = item.split(" ") if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ConversionError("tokenizer.json has a merge that is no pair")
        found.append((pair[0], pair[1]))
    return found


def _from_json(files: Files) -> Vocabulary:
    """The vocabulary of tokenizer.json, without its added tokens."""
    value = read_json(files, "tokenizer.json")
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise ConversionError(f"tokenizer.json is of the type {kind}, which is not supported")
    kind = model.get("type") or ("BPE" if model.get("merges") is not None else None)
    if kind != "BPE":
        raise ConversionError(f"tokenizer.json is of the type {kind}, which is not supported")
    tokens = _by_number(model["vocab"])
    merges = _merges(model.get("merges"))
    pre = value.get("pre_tokenizer")
    parts = _pieces(pre, "pretokenizers") + _pieces(value.get("decoder"), "decoders")
    if any(part.get("type") == "ByteLevel" for part in parts):
        joined = [" ".join(pair) for pair in merges]
        return Vocabulary("gpt2", tokens, [NORMAL] * len(tokens), [], joined, pre_tokenizer_name(pre))
    if not model.get("byte_fallback"):
        raise ConversionError("tokenizer.json is neither a byte-level BPE nor SentencePiece's")
    return _sentencepiece_of(tokens, merges, value, str(model.get("unk_token") or ""))


def _by_number(vocabulary: dict[str, Any]) -> list[str]:
    numbers = list(vocabulary.values())
    if not all(type(number) is int and 0 <= number < 1 << 24 for number in numbers):
        raise ConversionError("tokenizer.json has a token without a number")
    tokens = [""] * (max(numbers, default=-1) + 1)
    for text, number in vocabulary.items():
        tokens[number] = text
    return tokens


def _sentencepiece_of(
    tokens: list[str], merges: list[tuple[str, str]], value: dict[str, Any], unknown: str
) -> Vocabulary:
    """A SentencePiece vocabulary from merges: the sooner a piece is merged, the higher its score."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    scores = [-float(ranks[text]) if text in ranks else _NEVER for text in tokens]
    types = [
        UNKNOWN if text == unknown else BYTE if _BYTE_PIECE.fullmatch(text) else NORMAL for text in tokens
    ]
    parts = _pieces(value.get("normalizer"), "normalizers")
    parts += _pieces(value.get("pre_tokenizer"), "pretokenizers")
    prefix = any(
        part.get("type") == "Prepend"
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )
    return Vocabulary("llama", tokens, types, scores, add_space_prefix=prefix)


def _added_tokens(files: Files) -> dict[int, tuple[str, bool]]:
    """Text and whether it is special, by number: from all files that say so."""
    found: dict[int, tuple[str, bool]] = {}
    for text, number in read_object(files, "added_tokens.json").items():
        if type(number) is int:
            found[number] = (text, False)
    decoder = read_object(files, "tokenizer_config.json").get("added_tokens_decoder")
    numbered = decoder.items() if isinstance(decoder, dict) else ()
    entries = [{**entry, "id": int(number)} for number, entry in numbered if number.isdecimal()]
    listed = read_object(files, "tokenizer.json").get("added_tokens")
    for entry in [*entries, *(listed if isinstance(listed, list) else [])]:
        if isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("content"), str):
            found[entry["id"]] = (entry["content"], bool(entry.get("special")))
    return found


def read_vocabulary(files: Files, rows: int) -> Vocabulary:
    """The vocabulary with its added tokens, as long as the embedding has rows.

    Added tokens beyond it, such as the place of an image in a model for text, cannot be asked for and are left
    out. Raises ConversionError.
    """
    if "tokenizer.model" in files:
        pieces = read_sentencepiece(files["tokenizer.model"])
        vocabulary = Vocabulary("llama", pieces.texts, pieces.types, pieces.scores)
        vocabulary.add_space_prefix = pieces.add_space_prefix
    elif "tokenizer.json" in files:
        vocabulary = _from_json(files)
    else:
        raise ConversionError("unknown tokenizer format")
    vocabulary.check(rows)
    for number, (text, special) in sorted(_added_tokens(files).items()):
        if number < rows:
            vocabulary.add(number, text, special)
    vocabulary.fit(rows)
    return vocabulary


def chat_template(files: Files) -> str:
    """The Jinja template of a chat, "" without one. A file of its own goes before tokenizer_config.json."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].read_text("utf-8", "replace")
    value = read_object(files, "tokenizer_config.json").get("chat_template")
    if value is None:
        value = read_object(files, "chat_template.json").get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else ""


def _framing(files: Files) -> dict[str, bool]:
    """Whether a text gets a BOS and an EOS, as tokenizer.json's post-processor does it."""
    value = read_object(files, "tokenizer.json")
    if value.get("post_processor") is None:
        return {}
    for part in _pieces(value["post_processor"], "processors"):
        if part.get("type") == "TemplateProcessing" and isinstance(part.get("single"), list):
            kinds = ["SpecialToken" in item for item in part["single"] if isinstance(item, dict)]
            first_text = kinds.index(False) if False in kinds else len(kinds)
            return {"bos": any(kinds[:first_text]), "eos": any(kinds[first_text:])}
    return {"bos": False, "eos": False}


def special_rows(files: Files, config: Config, tokens: list[str]) -> Metadata:
    """The ids of special tokens, and which of them frame a text."""
    named = {**read_object(files, "special_tokens_map.json"), **read_object(files, "tokenizer_config.json")}
    generation = read_object(files, "generation_config.json")
    numbers = {text: number for number, text in reversed(list(enumerate(tokens)))}
    framing = _framing(files)
    rows: Metadata = []
    for name, key in _SPECIALS.items():
        content = named.get(f"{name}_token")
        content = content.get("content") if isinstance(content, dict) else content
        ids = generation.get(f"{name}_token_id", config.get(f"{name}_token_id"))
        ids = [
            n for n in (ids if isinstance(ids, list) else [ids]) if type(n) is int and 0 <= n < len(tokens)
        ]
        number = numbers.get(content) if isinstance(content, str) else None
        if number is None and ids:
            number = ids[0]
        if number is not None:
            rows.append((f"tokenizer.ggml.{key}_token_id", "u32", number))
        if name == "eos" and len(ids) > 1:
            rows.append(("tokenizer.ggml.eos_token_ids", "i32s", ids))
        added = named.get(f"add_{name}_token")
        added = added if isinstance(added, bool) else framing.get(name)
        if added is not None and name in ("bos", "eos"):
            rows.append((f"tokenizer.ggml.add_{name}_token", "bool", added))
    return rows


def tokenizer_rows(files: Files, config: Config, rows: int) -> Metadata:
    """Everything GGUF says about a tokenizer, for an embedding of so many rows. Raises ConversionError."""
    vocabulary = read_vocabulary(files, rows)
    found: Metadata = [
        ("tokenizer.ggml.model", "string", vocabulary.model),
        ("tokenizer.ggml.pre", "string", vocabulary.pre),
        ("tokenizer.ggml.tokens", "strings", vocabulary.tokens),
        ("tokenizer.ggml.token_type", "i32s", vocabulary.types),
    ]
    if vocabulary.scores:
        found.append(("tokenizer.ggml.scores", "f32s", vocabulary.scores))
    if vocabulary.model == "gpt2":
        found.append(("tokenizer.ggml.merges", "strings", vocabulary.merges))
    if vocabulary.add_space_prefix is not None:
        found.append(("tokenizer.ggml.add_space_prefix", "bool", vocabulary.add_space_prefix))
    if template := chat_template(files):
        found.append(("tokenizer.chat_template", "string", template))
    return found + special_rows(files, config, vocabulary.tokens)
