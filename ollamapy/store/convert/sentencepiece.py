"""Reads SentencePiece models (tokenizer.model): a protocol buffer of pieces with scores and types.

Format: google/sentencepiece, src/sentencepiece_model.proto; only the fields that GGUF has a place for are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollamapy.store.errors import ConversionError

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # fields of a piece
_MODEL_TYPE = 3  # field of TrainerSpec
_DUMMY_PREFIX = 3  # field of NormalizerSpec
_UNIGRAM, _BPE = 1, 2

Value = int | bytes


@dataclass(frozen=True)
class SentencePieces:
    """The pieces by their id, with the types that GGUF numbers alike."""

    texts: list[str]
    scores: list[float]
    types: list[int]
    add_space_prefix: bool


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values of a message's fields; fixed-width values come as bytes. Raises ConversionError."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while position < len(data) and shift < 70:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ConversionError("tokenizer.model is no SentencePiece model")

    while position < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
            continue
        if wire not in (1, 2, 5):
            raise ConversionError("tokenizer.model is no SentencePiece model")
        length = varint() if wire == 2 else 8 if wire == 1 else 4
        if position + length > len(data):
            raise ConversionError("tokenizer.model is no SentencePiece model")
        yield key >> 3, data[position : position + length]
        position += length


def _piece(data: Value) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    if not isinstance(data, bytes):
        raise ConversionError("tokenizer.model is no SentencePiece model")
    for number, value in _fields(data):
        if number == _TEXT and isinstance(value, bytes):
            text = value.decode("utf-8", "replace")
        elif number == _SCORE and isinstance(value, bytes) and len(value) == 4:
            (score,) = struct.unpack("<f", value)
        elif number == _TYPE and isinstance(value, int):
            kind = value
    return text, score, kind


def _setting(data: Value, field: int, default: int) -> int:
    found = [value for number, value in _fields(data) if number == field] if isinstance(data, bytes) else []
    return found[-1] if found and isinstance(found[-1], int) else default


def read_sentencepiece(path: Path) -> SentencePieces:
    """Raises ConversionError for another format, and for a model that is not merged by scores (unigram)."""
    pieces: list[tuple[str, float, int]] = []
    model_type, prefix = _UNIGRAM, 1
    for number, value in _fields(path.read_bytes()):
        if number == _PIECES:
            pieces.append(_piece(value))
        elif number == _TRAINER:
            model_type = _setting(value, _MODEL_TYPE, _UNIGRAM)
        elif number == _NORMALIZER:
            prefix = _setting(value, _DUMMY_PREFIX, 1)
    if not pieces:
        raise ConversionError("tokenizer.model is no SentencePiece model")
    if model_type != _BPE:
        raise ConversionError("tokenizer.model is not of the type BPE, which is the only one supported")
    texts, scores, types = (list(column) for column in zip(*pieces, strict=True))
    return SentencePieces(texts, scores, types, bool(prefix))
