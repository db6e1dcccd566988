"""Tokenizers against recorded vectors on real models and other software on small trained vocabularies."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HfTokenizer
from vocabularies import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_text,
    byte_vocabulary,
    texts,
    tokenizer,
)

from ollamapy._core import GGUFFile, Tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
BOOK = (GOLDEN / "text" / "opticks.txt").read_text(encoding="utf-8")
CORPUS = [
    *BOOK[:60_000].splitlines(keepends=True),
    "def f(x):\n    return x + 1\n\n\n    # 1234567 1.5e-10 $99\n" * 20,
    "Der Übergang: naïve café, ÉTÉ été Ärger; je l'ai vu. C'est l'été! " * 20,
    "Быстрая лиса прыгает. Ελληνικά γλώσσα. 中文分词测试，包括标点。日本語のテスト。한국어 문장입니다. हिन्दी "
    * 20,
    "we'll they've it's I'm you're he'd don't WE'LL IT'S  two  spaces   three\r\n\r\n\t\ttabs !!! ... ?\n"
    * 20,
]

examples = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return Tokenizer(GGUFFile(str(smollm2_path)))


@pytest.fixture(scope="session")
def gemma3(gemma3_path: Path) -> Tokenizer:
    return Tokenizer(GGUFFile(str(gemma3_path)))


@pytest.fixture(scope="session")
def minilm(minilm_gguf_path: Path) -> Tokenizer:
    return Tokenizer(GGUFFile(str(minilm_gguf_path)))


def recorded(name: str) -> list[dict[str, Any]]:
    """Vectors of valid texts: what oracles make of ill-formed UTF-8 differs, and here it is U+FFFD."""
    vectors = json.loads((GOLDEN / "tokenizer" / f"{name}.json").read_text(encoding="utf-8"))
    return [vector for vector in vectors if "text" in vector]


# Real models


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_recorded_vectors(name: str, request: pytest.FixtureRequest) -> None:
    model: Tokenizer = request.getfixturevalue(name)
    vectors = recorded(name)
    assert len(vectors) > 150
    for vector in vectors:
        text, plain = vector["text"], vector["plain"]
        assert model.encode(text, False, False) == plain, text
        assert model.encode(text, False, True) == vector.get("parsed", plain), text
        assert model.encode(text, True, True) == vector.get("full", plain), text


def test_recorded_vectors_of_wordpiece(minilm: Tokenizer) -> None:
    # Recorded by a library that always recognizes special tokens.
    for vector in recorded("minilm"):
        assert minilm.encode(vector["text"], False, True) == vector["plain"], vector["text"]
        assert minilm.encode(vector["text"]) == vector["full"], vector["text"]


def test_properties_of_real_vocabularies(smollm2: Tokenizer, gemma3: Tokenizer, minilm: Tokenizer) -> None:
    assert (smollm2.kind, smollm2.vocab_size, smollm2.bos, smollm2.eos) == ("bpe", 49152, 1, 2)
    assert (smollm2.add_bos, smollm2.add_eos) == (False, False)
    assert {smollm2.token_text(i) for i in smollm2.eog} == {"<|endoftext|>", "<|im_end|>", "<reponame>"}
    assert (gemma3.kind, gemma3.vocab_size, gemma3.bos, gemma3.eos) == ("spm", 262144, 2, 1)
    assert (gemma3.add_bos, gemma3.add_eos) == (True, False)
    assert {gemma3.token_text(i) for i in gemma3.eog} == {"<eos>", "<end_of_turn>", "</s>"}
    assert (minilm.kind, minilm.vocab_size) == ("wordpiece", 30522)
    assert [minilm.token_text(i) for i in minilm.encode("")] == ["[CLS]", "[SEP]"]


@examples
@given(text=texts())
def test_decoding_gives_the_text_back(smollm2: Tokenizer, gemma3: Tokenizer, text: str) -> None:
    assert gemma3.decode(gemma3.encode(text, False, False)) == text.encode()
    missing = bytes.fromhex("040613141d16c0c1f1f2f5f6f7f8f9fafbfcfdfeff")  # SmolLM2 has no tokens for these
    known = text.encode().translate(None, delete=missing)
    assert smollm2.decode(smollm2.encode(text, False, False)) == known


def cpu_seconds(work: Callable[[], object], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def test_a_large_vocabulary_is_ready_at_once(gemma3_path: Path) -> None:
    file = GGUFFile(str(gemma3_path))
    assert cpu_seconds(lambda: Tokenizer(file)) < 0.3


@pytest.mark.parametrize("name", ["smollm2", "gemma3", "minilm"])
@pytest.mark.parametrize("unit", ["a", "abcdefghij", "\n", " ", "<|", "中文"])
def test_time_grows_with_the_text(name: str, unit: str, request: pytest.FixtureRequest) -> None:
    model: Tokenizer = request.getfixturevalue(name)
    short, long = (unit * (size // len(unit)) for size in (60_000, 960_000))
    if name == "gemma3":
        assert model.decode(model.encode(long, False)) == long.encode()
    # Sixteen times the text; the square would be 256 times the time.
    of_short = max(cpu_seconds(lambda: model.encode(short)), 1e-3)
    assert cpu_seconds(lambda: model.encode(long), 2) < 80 * of_short


def test_encoding_releases_the_interpreter(gemma3: Tokenizer) -> None:
    text = BOOK * 4
    alone = gemma3.encode(text)
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(gemma3.encode(text))) for _ in range(3)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    ticks = [start]
    while any(thread.is_alive() for thread in threads):
        ticks.append(time.monotonic())
    longest_pause = max(b - a for a, b in itertools.pairwise(ticks))
    assert longest_pause < (time.monotonic() - start) / 2
    assert results == [alone] * 3


# Byte-level BPE

Trained = tuple[dict[str, int], list[tuple[str, str]]]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXPRESSIONS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "qwen35": [QWEN35],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}


def splitter(pre: str) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in EXPRESSIONS[pre]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, to_bytes])


@pytest.fixture(scope="module")
def trained_bpe() -> Trained:
    """A vocabulary and the merges that lead to it, but for every tenth: its token is left unreachable."""
    trained = HfTokenizer(models.BPE())
    trained.pre_tokenizer = splitter("gpt-2")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    return model["vocab"], [merge for i, merge in enumerate(merges) if i % 10 != 9]


def bpe_pair(folder: Path, pre: str, trained: Trained) -> tuple[HfTokenizer, Tokenizer]:
    vocabulary, merges = trained
    oracle = HfTokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    oracle.pre_tokenizer = splitter(pre)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ours = tokenizer(folder, "gpt2", pre=pre, tokens=tokens, merges=[" ".join(merge) for merge in merges])
    return oracle, ours


@pytest.mark.parametrize("pre", EXPRESSIONS)
def test_bpe_agrees_with_tokenizers(pre: str, tmp_path: Path, trained_bpe: Trained) -> None:
    oracle, ours = bpe_pair(tmp_path, pre, trained_bpe)

    @examples
    @given(text=texts().filter(lambda text: "ſ" not in text))  # (?i:'s) there also takes the long s
    def check(text: str) -> None:
        ids = ours.encode(text, False, False)
        assert ids == oracle.encode(text).ids
        assert ours.decode(ids) == text.encode()

    check()
    for part in CORPUS:
        assert ours.encode(part, False, False) == oracle.encode(part).ids


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("llama3", "llama-bpe"),
        ("llama-v3", "llama-bpe"),
        ("deepseek-r1-qwen", "qwen2"),
        ("starcoder", "smollm"),
        ("phi-2", "gpt-2"),
    ],
)
def test_aliases(alias: str, name: str, tmp_path: Path, trained_bpe: Trained) -> None:
    oracle, _ = bpe_pair(tmp_path, name, trained_bpe)
    vocabulary, merges = trained_bpe
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ours = tokenizer(tmp_path, "gpt2", pre=alias, tokens=tokens, merges=[" ".join(merge) for merge in merges])
    text = "It's 12345 o'clock,  WE'LL see\r\n\r\n   if (x == 1) {\n\tfoo();;\n}\n"
    assert ours.encode(text, False) == oracle.encode(text).ids


def test_merges_may_go_through_what_is_no_token(tmp_path: Path) -> None:
    fields = byte_vocabulary([("abc", NORMAL)], merges=["a b", "ab c"])
    ours = tokenizer(tmp_path, "gpt2", **fields)
    assert ours.encode("abcab") == [256, ord("a"), ord("b")]


def test_bytes_without_a_token_are_dropped(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, "gpt2", pre="gpt-2", tokens=["a", "b", "ab"], merges=["a b"])
    assert ours.encode("ab\u00e9a!b") == [2, 0, 1]


def test_the_first_of_equal_merges_and_the_last_of_equal_tokens_count(tmp_path: Path) -> None:
    fields = byte_vocabulary([("ab", NORMAL), ("bc", NORMAL), ("ab", NORMAL)], merges=["a b", "b c", "a b"])
    ours = tokenizer(tmp_path, "gpt2", **fields)
    assert ours.encode("abc") == [258, ord("c")]
    assert ours.decode([256, 258]) == b"abab"


def test_bos_follows_the_pre_tokenizer_unless_the_file_says(tmp_path: Path) -> None:
    fields = byte_vocabulary([("<s>", CONTROL), ("</s>", CONTROL)], bos_token_id=256, eos_token_id=257)
    assert tokenizer(tmp_path, "gpt2", **fields).encode("a") == [97]
    fields["pre"] = "llama-bpe"
    assert tokenizer(tmp_path, "gpt2", **fields).encode("a") == [256, 97]
    fields |= {"add_bos_token": False, "add_eos_token": True}
    assert tokenizer(tmp_path, "gpt2", **fields).encode("a") == [97, 257]
    assert tokenizer(tmp_path, "gpt2", **fields).encode("a", add_special=False) == [97]


def test_without_ids_there_is_no_bos_and_no_eos(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, "gpt2", **byte_vocabulary(pre="llama-bpe", add_eos_token=True))
    assert (ours.bos, ours.eos, ours.eog) == (None, None, frozenset())
    assert (ours.add_bos, ours.add_eos) == (False, False)
    assert ours.encode("a") == [97]


# SentencePiece


def train_sentencepiece(**options: Any) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for part in CORPUS for line in part.splitlines()),
        model_writer=model, model_type="bpe", vocab_size=1200, character_coverage=0.99, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, **options,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_fields(oracle: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    ids = range(oracle.vocab_size())

    def kind(i: int) -> int:
        if oracle.is_unknown(i):
            return UNKNOWN
        if oracle.is_control(i):
            return CONTROL
        return BYTE if oracle.is_byte(i) else NORMAL

    return {
        "tokens": [oracle.id_to_piece(i) for i in ids],
        "scores": [float(oracle.get_score(i)) for i in ids],
        "token_type": [kind(i) for i in ids],
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"split_by_whitespace": False}, {"add_dummy_prefix": False}, {"allow_whitespace_only_pieces": True}],
    ids=str,
)
def test_sentencepiece_agrees_with_sentencepiece(options: dict[str, Any], tmp_path: Path) -> None:
    oracle = train_sentencepiece(**options)
    prefix = options.get("add_dummy_prefix", True)
    ours = tokenizer(tmp_path, "llama", add_space_prefix=prefix, **sentencepiece_fields(oracle))

    @examples
    @given(text=texts())
    def check(text: str) -> None:
        ids = ours.encode(text, False, False)
        assert ids == oracle.encode(text)
        assert ours.decode(ids) == (b" " if prefix and text else b"") + text.replace("▁", " ").encode()

    check()
    for part in CORPUS:
        assert ours.encode(part, False, False) == oracle.encode(part)


def spm_tokenizer(folder: Path, extra: list[tuple[str, float, int]], **fields: Any) -> Tokenizer:
    entries = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), *extra]
    texts_, scores, types = (list(column) for column in zip(*entries, strict=True))
    return tokenizer(folder, "llama", tokens=texts_, scores=scores, token_type=types, **fields)


def test_the_space_prefix_stands_at_the_start_and_after_special_tokens(tmp_path: Path) -> None:
    letters = [("▁", -1.0, NORMAL), ("a", -2.0, NORMAL)]
    ours = spm_tokenizer(tmp_path, letters)
    assert ours.encode("a") == [1, 3, 4]
    assert ours.encode("a<s>a</s>") == [1, 3, 4, 1, 3, 4, 2]
    assert ours.encode("<s> a") == [1, 1, 3, 3, 4]
    assert ours.encode("") == [1]
    bare = spm_tokenizer(tmp_path, letters, add_space_prefix=False, add_bos_token=False, add_eos_token=True)
    assert bare.encode("a<s>a") == [4, 1, 4, 2]


def test_the_best_score_merges_first_and_the_leftmost_of_equals(tmp_path: Path) -> None:
    scores = {"a": -9.0, "b": -9.0, "ab": -2.0, "ba": -1.0, "aa": -1.0}
    pieces = [(text, score, NORMAL) for text, score in scores.items()]
    ours = spm_tokenizer(tmp_path, pieces, add_space_prefix=False, add_bos_token=False)
    assert ours.encode("ab") == [5]
    assert ours.encode("aba") == [3, 6]
    assert ours.encode("aaa") == [7, 3]
    assert ours.encode("baa") == [6, 3]


def test_without_byte_tokens_a_character_is_unknown(tmp_path: Path) -> None:
    ours = spm_tokenizer(tmp_path, [("a", -1.0, NORMAL)], add_space_prefix=False, add_bos_token=False)
    assert ours.encode("aé中a") == [3, 0, 0, 3]


# WordPiece


@pytest.fixture(scope="module")
def trained_wordpiece() -> dict[str, int]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained = HfTokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=False)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = [part.lower() if i % 2 else part for i, part in enumerate(CORPUS)]
    decomposed = [normalizers.BertNormalizer().normalize_str(part) for part in CORPUS]
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    trained.train_from_iterator([*corpus, *decomposed], trainer)
    return trained.get_vocab()


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_wordpiece_agrees_with_tokenizers(
    lowercase: bool, strip_accents: bool | None, tmp_path: Path, trained_wordpiece: dict[str, int]
) -> None:
    vocabulary = trained_wordpiece
    oracle = HfTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    oracle.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    oracle.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fields: dict[str, Any] = {"tokens": [], "token_type": [], "normalizer.lowercase": lowercase}
    if strip_accents is not None:
        fields["normalizer.strip_accents"] = strip_accents
    for token in sorted(vocabulary, key=vocabulary.__getitem__):
        special = token.startswith("[") and len(token) > 1
        fields["token_type"].append(CONTROL if special else NORMAL)
        fields["tokens"].append(token if special else token[2:] if token.startswith("##") else f"▁{token}")
    for field, name in [("unknown", "[UNK]"), ("cls", "[CLS]"), ("seperator", "[SEP]")]:
        fields[f"{field}_token_id"] = vocabulary[name]
    ours = tokenizer(tmp_path, "bert", **fields)

    @examples
    @given(text=texts())
    def check(text: str) -> None:
        ids = ours.encode(text, False, False)
        assert ids == oracle.encode(text).ids
        assert ours.encode(text, True, False) == [vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]]

    check()
    for part in CORPUS:
        assert ours.encode(part, False, False) == oracle.encode(part).ids


# Input


def test_ill_formed_bytes_are_read_as_replacement_characters(smollm2: Tokenizer, gemma3: Tokenizer) -> None:
    data = [
        b"\xff",
        b"a\xc3",
        b"\xe4\xb8",
        b"\xf0\x9f\x98x",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\x80\x80",
    ]
    for text in [*data, b"a long beginning " + b" ".join(data) + " and 中文".encode()]:
        for model in (smollm2, gemma3):
            assert model.encode(text) == model.encode(text.decode(errors="replace"))


def test_a_lone_surrogate_is_a_replacement_character(smollm2: Tokenizer) -> None:
    assert smollm2.encode("a\ud800b\udfff😀") == smollm2.encode("a\ufffdb\ufffd😀")


def test_bytes_and_text_are_the_same(smollm2: Tokenizer) -> None:
    assert smollm2.encode("naïve 中文\x00".encode()) == smollm2.encode("naïve 中文\x00")
    with pytest.raises(TypeError):
        smollm2.encode(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, 256, 2**31, 2**70, -(2**70)])
def test_ids_out_of_range(token: int, tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, "gpt2", **byte_vocabulary())
    uses: list[Callable[[int], object]] = [ours.piece, ours.token_text, ours.is_control]
    for use in [*uses, lambda i: ours.decode([97, i])]:
        with pytest.raises(ValueError, match="token"):
            use(token)


def test_token_text_and_pieces(tmp_path: Path) -> None:
    expected = [
        ("Ġhello", NORMAL, b" hello"),
        ("<|x|>", CONTROL, b""),
        ("Ġ raw", USER_DEFINED, "Ġ raw".encode()),
        (byte_text(b"\xe4\xb8"), NORMAL, b"\xe4\xb8"),
        ("雪a", NORMAL, "雪a".encode()),  # not of the byte alphabet
        ("", NORMAL, b""),
        ("gone", UNUSED, b""),
    ]
    ours = tokenizer(tmp_path, "gpt2", **byte_vocabulary([(text, kind) for text, kind, _ in expected]))
    for i, (text, _, piece) in enumerate(expected, 256):
        assert (ours.token_text(i), ours.piece(i)) == (text, piece)
    assert ours.piece(257, special=True) == b"<|x|>"
    assert [ours.is_control(i) for i in (97, 256, 257, 258)] == [False, False, True, False]
    assert ours.decode([256, 257, 33]) == b" hello!"
    assert ours.decode([256, 257], special=True) == b" hello<|x|>"
