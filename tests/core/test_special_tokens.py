"""Tokens written out in a text, what their texts imply, and vocabularies that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    byte_vocabulary,
    tokenizer,
    write_vocabulary,
)

from ollamapy._core import GGUFError, Tokenizer


def reference(text: str, special: list[tuple[int, str, int]], parse_special: bool, strip: bool) -> list[int]:
    """Token by token, fragment by fragment, as llama.cpp goes about it. special: (id, text, type)."""
    fragments: list[str | int] = [text]
    for token, wanted, kind in sorted(special, key=lambda item: (-len(item[1]), item[0])):
        if kind != USER_DEFINED and not parse_special:
            continue
        result: list[str | int] = []
        for fragment in fragments:
            if isinstance(fragment, int):
                result.append(fragment)
                continue
            while (at := fragment.find(wanted)) >= 0:
                if fragment[:at]:
                    result.append(fragment[:at])
                result.append(token)
                fragment = fragment[at + len(wanted) :]
                if strip:
                    fragment = fragment.lstrip(" \t\n\v\f\r")
            if fragment:
                result.append(fragment)
        fragments = result
    ids: list[int] = []
    for fragment in fragments:
        ids += [fragment] if isinstance(fragment, int) else fragment.encode()
    return ids


ALPHABET = "ab "
SPECIALS = st.lists(
    st.tuples(st.text(ALPHABET, min_size=2, max_size=5), st.sampled_from([CONTROL, USER_DEFINED, UNKNOWN])),
    max_size=12,
    unique_by=lambda item: item[0],
)


@settings(max_examples=200, deadline=None)
@given(
    specials=SPECIALS,
    samples=st.lists(st.text(ALPHABET, max_size=40), min_size=1, max_size=10),
    strip=st.booleans(),
)
def test_any_set_of_special_tokens(
    tmp_path_factory: pytest.TempPathFactory, specials: list[tuple[str, int]], samples: list[str], strip: bool
) -> None:
    fields = byte_vocabulary(specials, merges=["\u0100 \u0100"])
    # phi-3's tokens swallow the white space after them.
    fields |= {"general.name": "Phi-3 mini" if strip else "Phi 3 mini"}
    ours = tokenizer(tmp_path_factory.mktemp("special"), "gpt2", **fields)
    entries = [(256 + i, text, kind) for i, (text, kind) in enumerate(specials)]
    for text in samples:
        assert ours.encode(text, False, True) == reference(text, entries, True, strip)
        assert ours.encode(text, False, False) == reference(text, entries, False, strip)


def test_control_tokens_are_text_unless_parsed(tmp_path: Path) -> None:
    extra = [("<|user|>", CONTROL), ("<unk>", UNKNOWN), ("<table>", USER_DEFINED)]
    ours = tokenizer(tmp_path, "gpt2", **byte_vocabulary(extra))
    text = "x<|user|><unk><table>"
    assert ours.encode(text) == [120, 256, 257, 258]
    assert ours.encode(text, parse_special=False) == [*b"x<|user|><unk>", 258]


def test_a_mask_swallows_the_space_before_it(tmp_path: Path) -> None:
    extra = [("[MASK]", CONTROL), ("<mask>", CONTROL)]
    for name, field, token in [
        ("[MASK]", {"general.name": "Modern-BERT base"}, 256),
        ("<mask>", {"pre": "jina-v2-code"}, 257),
    ]:
        ours = tokenizer(tmp_path, "gpt2", **(byte_vocabulary(extra) | field))
        assert ours.encode(f"a \t{name} b") == [97, token, 32, 98]
    assert tokenizer(tmp_path, "gpt2", **byte_vocabulary(extra)).encode("a [MASK] b") == [97, 32, 256, 32, 98]


def test_some_tokens_of_phi3_keep_the_space_after_them(tmp_path: Path) -> None:
    extra = [("<|user|>", CONTROL), ("<s>", CONTROL), ("</s>", NORMAL)]
    ours = tokenizer(tmp_path, "gpt2", **byte_vocabulary(extra, **{"general.name": "Phi3"}))
    assert ours.encode("<|user|>\n a<s>\n </s>  b") == [256, 97, 257, 10, 32, 258, 98]


def with_tokens(folder: Path, *names: str, kind: int = CONTROL, **fields: Any) -> Tokenizer:
    return tokenizer(folder, "gpt2", **byte_vocabulary([(name, kind) for name in names], **fields))


def ends(ours: Tokenizer) -> set[str]:
    return {ours.token_text(i) for i in ours.eog}


def test_what_ends_a_generation(tmp_path: Path) -> None:
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<stop>", "<eot>", "<eom>", "<x>"]
    assert ends(with_tokens(tmp_path, *names)) == {"<|im_end|>", "<|endoftext|>"}
    ids = {"eos_token_id": 259, "eot_token_id": 260, "eom_token_id": 261}
    known = {"<|im_end|>", "<|endoftext|>"}
    assert ends(with_tokens(tmp_path, *names, **ids)) == known | {"<stop>", "<eot>", "<eom>"}


def test_marks_of_a_repository_end_a_generation(tmp_path: Path) -> None:
    names = [
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
    ]
    assert ends(with_tokens(tmp_path, *names)) == {"<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
    ours = with_tokens(tmp_path, *names, "<other>", fim_sep_token_id=262)
    assert ends(ours) == {"<|fim_pad|>", "<|repo_name|>", "<other>"}


def test_well_known_tokens_are_control_tokens_whatever_the_file_says(tmp_path: Path) -> None:
    ours = with_tokens(tmp_path, "<|im_end|>", "<fim_prefix>", "<table>", kind=USER_DEFINED)
    assert [ours.is_control(i) for i in (256, 257, 258)] == [True, True, False]
    assert ours.encode("<|im_end|>", parse_special=False) == list(b"<|im_end|>")
    assert ours.decode([256, 257, 258]) == b"<table>"


def test_harmony(tmp_path: Path) -> None:
    names = ["<|return|>", "<|call|>", "<|end|>", "<|channel|>", "<|message|>", "<|start|>"]
    ours = with_tokens(tmp_path, *names)
    assert ends(ours) == {"<|return|>", "<|call|>"}
    assert ours.decode(range(256, 262)) == b"<|end|><|channel|><|message|><|start|>"
    assert ends(with_tokens(tmp_path, "<|call|>", "<|end|>")) == {"<|call|>", "<|end|>"}
    assert ends(with_tokens(tmp_path, "<|calls|>", "<|flush|>", "<|end|>")) == {"<|calls|>", "<|flush|>"}


def test_a_normal_end_of_sequence_marker(tmp_path: Path) -> None:
    assert ends(with_tokens(tmp_path, "</s>", "<eos>")) == {"</s>", "<eos>"}
    ours = with_tokens(tmp_path, "</s>", "<eos>", "<|tool_response>")
    assert ends(ours) == {"<eos>", "<|tool_response>"}
    assert not ours.is_control(256)


# Vocabularies that are refused. Each message names the field.

BERT: dict[str, Any] = {
    "tokens": ["[UNK]", "[CLS]", "[SEP]", "▁a"],
    "unknown_token_id": 0,
    "cls_token_id": 1,
    "seperator_token_id": 2,
}
SPM: dict[str, Any] = {"tokens": ["<unk>", "<s>", "</s>", "a"], "scores": [0.0, 0.0, 0.0, -1.0]}


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (None, {}, "tokenizer.ggml.model' is missing"),
        ("t5", SPM, "model' names an unknown tokenizer: 't5'"),
        (3, SPM, "tokenizer.ggml.model"),
        ("gpt2", {"pre": "chameleon"}, "pre' names an unknown pre-tokenizer: 'chameleon'"),
        ("gpt2", {"pre": 1}, "tokenizer.ggml.pre"),
        ("gpt2", {"tokens": None}, "tokens' is missing"),
        ("gpt2", {"tokens": [1, 2]}, "tokenizer.ggml.tokens"),
        ("gpt2", {"tokens": "a"}, "tokenizer.ggml.tokens"),
        ("gpt2", {"merges": None}, "merges' is missing"),
        ("gpt2", {"merges": ["a b", "ab"]}, "merges': merge 1 does not have two parts"),
        ("gpt2", {"merges": [" b"]}, "merges': merge 0"),
        ("gpt2", {"merges": ["a "]}, "merges': merge 0"),
        ("gpt2", {"merges": [""]}, "merges': merge 0"),
        ("gpt2", {"token_type": [1] * 255}, "token_type' has 255 values for 256 tokens"),
        ("gpt2", {"token_type": [1] * 257}, "token_type' has 257 values for 256 tokens"),
        ("gpt2", {"token_type": [1] * 255 + [7]}, "token_type' has the unknown type 7 for token 255"),
        ("gpt2", {"token_type": [-1] + [1] * 255}, "token_type' has the unknown type -1 for token 0"),
        ("gpt2", {"token_type": [1.0] * 256}, "tokenizer.ggml.token_type"),
        ("gpt2", {"bos_token_id": 256}, "bos_token_id' is 256, but there are 256 tokens"),
        ("gpt2", {"eos_token_id": -1}, "eos_token_id' is -1"),
        ("gpt2", {"eot_token_id": 2**40}, "eot_token_id' is 1099511627776"),
        ("gpt2", {"eom_token_id": 256}, "eom_token_id"),
        ("gpt2", {"fim_pad_token_id": 256}, "fim_pad_token_id"),
        ("gpt2", {"unknown_token_id": "x"}, "tokenizer.ggml.unknown_token_id"),
        ("gpt2", {"add_bos_token": "x"}, "tokenizer.ggml.add_bos_token"),
        ("llama", SPM | {"scores": None}, "scores' is missing"),
        ("llama", SPM | {"scores": [0.0] * 3}, "scores' has 3 values for 4 tokens"),
        ("llama", SPM | {"scores": [0.0] * 5}, "scores' has 5 values for 4 tokens"),
        ("llama", SPM | {"scores": [0.0, 0.0, float("nan"), 0.0]}, "scores' is not a number for token 2"),
        ("llama", SPM | {"bos_token_id": 4}, "bos_token_id' is 4"),
        ("bert", BERT | {"unknown_token_id": None}, "unknown_token_id' is missing"),
        ("bert", BERT | {"cls_token_id": None}, "cls_token_id' is missing"),
        ("bert", BERT | {"seperator_token_id": None}, "seperator_token_id' is missing"),
        ("bert", BERT | {"cls_token_id": 4}, "cls_token_id' is 4, but there are 4 tokens"),
    ],
)  # fmt: skip
def test_bad_vocabularies(model: Any, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write_vocabulary(tmp_path, model, byte_vocabulary() | fields if model == "gpt2" else fields)
    with pytest.raises(GGUFError, match=message.replace("(", r"\(")):
        Tokenizer(file)


def test_the_vocabularies_above_are_sound_but_for_one_field(tmp_path: Path) -> None:
    for model, fields in [("gpt2", byte_vocabulary()), ("llama", SPM), ("bert", BERT)]:
        assert tokenizer(tmp_path, model, **fields).vocab_size == len(fields["tokens"])


def test_the_file_may_go_before_its_tokenizer(tmp_path: Path) -> None:
    fields = byte_vocabulary([("hello", NORMAL)], merges=["h e", "l l", "he ll", "hell o"])
    ours = tokenizer(tmp_path, "gpt2", **fields)
    assert ours.encode("hello") == [256]
    assert ours.token_text(256) == "hello"
