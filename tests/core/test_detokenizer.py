"""The streaming detokenizer: never a part of a character, the same text however the bytes are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import BYTE, CONTROL, NORMAL, UNKNOWN, byte_text, byte_vocabulary, texts, tokenizer

from ollamapy._core import Detokenizer, GGUFFile, Tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

# Tokens of more than one byte that begin, end or cross characters.
PIECES = [
    b"\xe4\xb8", b"\xad\xe6\x96", b"\xf0\x9f", b"\x98\x80", b"\xf0\x9f\x98", b"\x80a", b"a\xc3",
    b"\xa9\xc3\xa9", b"\xff\xfe", b"\xed\xa0", b"\xf4\x90", b"\xc0\x80", b"\xe0\x80\x80", "中文".encode(),
    "😀".encode(), b"\xf0\x9f\x98\x80\xf0", b"hello",
]  # fmt: skip
CONTROL_ID = 256 + len(PIECES)

examples = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Ids below 256 are bytes, the next are PIECES, the last is a control token."""
    extra = [*((byte_text(piece), NORMAL) for piece in PIECES), ("<|é|>", CONTROL)]
    return tokenizer(tmp_path_factory.mktemp("pieces"), "gpt2", **byte_vocabulary(extra))


# What a character may begin with: all its bytes but the last are the same for 64 code points in a row.
BEGINNINGS = {
    chr(code).encode()[:length]
    for code in range(0x80, 0x110000, 64)
    if not 0xD800 <= code < 0xE000
    for length in range(1, len(chr(code).encode()))
}


def complete(data: bytes) -> tuple[str, int]:
    """The text of data without an incomplete last character, and the bytes of that. Python's own incremental
    decoder will not do: it also waits after the first two bytes of a surrogate."""
    held = next((n for n in (3, 2, 1) if data[-n:] in BEGINNINGS and len(data) >= n), 0)
    return data[: len(data) - held].decode(errors="replace"), held


def check(pieces: Tokenizer, tokens: list[int]) -> str:
    ours, text = Detokenizer(pieces), ""
    for count, token in enumerate(tokens, 1):
        text += ours.push(token)
        assert (text, ours.pending) == complete(pieces.decode(tokens[:count]))
    assert ours.flush() == "" and ours.pending == 0
    return text


@examples
@given(tokens=st.lists(st.integers(0, CONTROL_ID), max_size=40))
def test_any_tokens(pieces: Tokenizer, tokens: list[int]) -> None:
    text = check(pieces, tokens)
    whole = pieces.decode(tokens).decode(errors="replace")
    assert whole in (text, text + "\ufffd")  # an incomplete last character is dropped


@examples
@given(
    data=st.one_of(texts().map(str.encode), st.binary(max_size=40)), random=st.randoms(use_true_random=False)
)
def test_any_cut_gives_the_same_text(pieces: Tokenizer, data: bytes, random: Any) -> None:
    bytewise = check(pieces, list(data))
    tokens, at = [], 0
    while at < len(data):
        fitting = [i for i, piece in enumerate(PIECES, 256) if data.startswith(piece, at)]
        token = random.choice([data[at], *fitting])
        tokens.append(token)
        at += len(pieces.piece(token))
    assert check(pieces, tokens) == bytewise


@pytest.mark.parametrize("lead", range(0xC0, 0x100))
def test_every_second_byte(pieces: Tokenizer, lead: int) -> None:
    for second in range(256):
        for tail in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80"):
            check(pieces, [lead, second, *tail])


def test_a_character_comes_whole(pieces: Tokenizer) -> None:
    stream = Detokenizer(pieces)
    assert [stream.push(byte) for byte in "é中😀".encode()] == ["", "é", "", "", "中", "", "", "", "😀"]


def test_what_is_incomplete_at_the_end_is_dropped(pieces: Tokenizer) -> None:
    stream = Detokenizer(pieces)
    assert stream.push(ord("a")) == "a"
    assert stream.push(256) == ""
    assert stream.pending == 2
    assert stream.flush() == ""
    assert stream.pending == 0
    assert stream.push(ord("b")) == "b"


def test_an_incomplete_character_is_replaced_once_it_cannot_be_completed(pieces: Tokenizer) -> None:
    stream = Detokenizer(pieces)
    assert stream.push(256) == ""
    assert stream.push(ord("b")) == "\ufffdb"


def test_control_tokens_are_invisible_unless_asked_for(pieces: Tokenizer) -> None:
    tokens = [ord("a"), 0xC3, CONTROL_ID, 0xA9]
    hidden, shown = Detokenizer(pieces), Detokenizer(pieces, special=True)
    assert [hidden.push(token) for token in tokens] == ["a", "", "", "é"]
    assert [shown.push(token) for token in tokens] == ["a", "", "\ufffd<|é|>", "\ufffd"]


def test_an_id_out_of_range_changes_nothing(pieces: Tokenizer) -> None:
    stream = Detokenizer(pieces)
    stream.push(0xC3)
    for token in (-1, CONTROL_ID + 1, 2**40):
        with pytest.raises(ValueError, match="token"):
            stream.push(token)
    assert stream.push(0xA9) == "é"


def test_sentencepiece_spaces_and_byte_tokens(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "▁Hello", "▁▁x", "<0xE2>", "<0x82>", "<0xAC>", "<0x0a>", "<0x4>", "<0x4G>"]
    types = [UNKNOWN, CONTROL, NORMAL, NORMAL, BYTE, BYTE, BYTE, BYTE, BYTE, BYTE]
    ours = tokenizer(tmp_path, "llama", tokens=tokens, scores=[0.0] * len(tokens), token_type=types)
    stream = Detokenizer(ours)
    # No space is stripped at the start: the caller's stream may go on from a prompt.
    assert [stream.push(i) for i in range(10)] == ["", "", " Hello", "  x", "", "", "€", "\n", "", ""]
    assert ours.decode([0, 1], special=True) == b"<unk><s>"


def test_wordpiece_spaces(tmp_path: Path) -> None:
    tokens = ["[UNK]", "[CLS]", "[SEP]", "▁hello", "world", "▁▁"]
    types = [CONTROL, CONTROL, CONTROL, NORMAL, NORMAL, NORMAL]
    ids = {"unknown_token_id": 0, "cls_token_id": 1, "seperator_token_id": 2}
    stream = Detokenizer(tokenizer(tmp_path, "bert", tokens=tokens, token_type=types, **ids))
    assert [stream.push(i) for i in range(6)] == ["", "", "", " hello", "world", " ▁"]


@pytest.mark.parametrize("path", ["smollm2_path", "gemma3_path"])
def test_real_models_stream_what_they_decode(path: str, request: pytest.FixtureRequest) -> None:
    model = Tokenizer(GGUFFile(str(request.getfixturevalue(path))))
    text = (GOLDEN / "text" / "opticks.txt").read_text(encoding="utf-8")[:20_000]
    text += "🦙 中文 ​👨‍👩‍👧‍👦 한국어 é\u0301 \U0001f9ff" * 20
    tokens = model.encode(text, add_special=True)
    stream = Detokenizer(model)
    assert "".join(stream.push(token) for token in tokens) == text
