"""Model folders that transformers wrote become GGUF files that compute and tokenize the same."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ollamapy._core import GGUFFile, Tokenizer
from ollamapy.store.convert import convert_model, folder_files
from ollamapy.store.convert.tokenizer import pre_tokenizer_name
from ollamapy.store.errors import ConversionError

FOLDERS = Path(__file__).resolve().parents[1] / "golden" / "convert"
DECODERS = ["llama", "qwen3", "gemma3"]


def converted(folder: Path, target: Path, without: tuple[str, ...] = ()) -> Path:
    files = {name: path for name, path in folder_files(folder).items() if name not in without}
    with target.open("wb") as file:
        for block in convert_model(files):
            file.write(block)
    return target


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Iterator[Any]:
    with np.load(FOLDERS / request.param / "expected.npz") as values:
        yield request.param, values


@pytest.mark.parametrize("golden", DECODERS, indirect=True)
def test_logits(golden: Any, tmp_path: Path) -> None:
    from tests.models.forward import Forward

    name, values = golden
    model = Forward(converted(FOLDERS / name, tmp_path / "model.gguf"), threads=1, context=64)
    got = model.logits(values["ids"].tolist(), 0)
    model.close()
    want = values["values"]
    assert np.abs(got - want).max() / np.abs(want).max() < 0.03  # inputs of products are rounded to 8 bits
    clear = np.diff(np.sort(want, axis=1)[:, -2:])[:, 0] > 0.1 * want.std()
    assert clear.sum() > 10
    assert np.array_equal(got.argmax(axis=1)[clear], want.argmax(axis=1)[clear])


@pytest.mark.parametrize("golden", ["bert"], indirect=True)
def test_vectors(golden: Any, tmp_path: Path) -> None:
    from tests.models.forward import Forward

    name, values = golden
    model = Forward(converted(FOLDERS / name, tmp_path / "model.gguf"), threads=1)
    [got] = model.pooled([values["ids"].tolist()])
    model.close()
    want = values["values"][0]  # of the first token, as 1_Pooling says
    assert float(got @ want / np.linalg.norm(want)) > 0.9995
    assert GGUFFile(str(tmp_path / "model.gguf")).get("bert.pooling_type") == 2


@pytest.mark.parametrize("without", [(), ("tokenizer.model",)])
@pytest.mark.parametrize("golden", [*DECODERS, "bert"], indirect=True)
def test_tokens(golden: Any, without: tuple[str, ...], tmp_path: Path) -> None:
    name, values = golden
    path = converted(FOLDERS / name, tmp_path / "model.gguf", without)
    tokenizer = Tokenizer(GGUFFile(str(path)))
    rows = np.split(values["tokens"], np.cumsum(values["lengths"])[:-1])
    for text, want in zip(values["texts"].tolist(), rows, strict=True):
        assert tokenizer.encode(text, True, True) == want.tolist(), text


def test_metadata(tmp_path: Path) -> None:
    files = {name: GGUFFile(str(converted(FOLDERS / name, tmp_path / name))) for name in DECODERS}
    assert files["llama"].get("tokenizer.chat_template") == "{{ bos_token }}{{ messages[0]['content'] }}"
    assert files["qwen3"].get("tokenizer.chat_template") == "{{ messages[0]['content'] }}<|end|>"
    assert files["qwen3"].get("tokenizer.ggml.eos_token_ids") == [317, 316]
    assert files["qwen3"].get("tokenizer.ggml.add_bos_token") is False
    assert files["llama"].get("tokenizer.ggml.add_bos_token") is True
    assert files["llama"].get("tokenizer.ggml.pre") == "llama-bpe"
    assert files["gemma3"].get("gemma3.attention.sliding_window_pattern") == [True, False]
    assert files["gemma3"].get("gemma3.rope.scaling.factor") == 8.0
    types = {name: file.tensor("token_embd.weight").type for name, file in files.items()}
    assert types == {"llama": "F16", "qwen3": "BF16", "gemma3": "F16"}
    assert [files[name].get("general.file_type") for name in DECODERS] == [1, 32, 1]
    for file in files.values():
        assert file.keys() == sorted(file.keys())
        assert file.tensor("output_norm.weight").type == "F32"


def test_words_of_tokenizer_json(tmp_path: Path) -> None:
    """tokenizer.json alone says what vocab.txt says: Ollama's client does not send the latter."""
    folder = Path(shutil.copytree(FOLDERS / "bert", tmp_path / "model"))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.get)))
    with_list = converted(folder, tmp_path / "list.gguf").read_bytes()
    assert with_list == converted(folder, tmp_path / "json.gguf", ("vocab.txt",)).read_bytes()


def change_json(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"architectures": ["MixtralForCausalLM"]}, 'unsupported architecture "MixtralForCausalLM"'),
        ("llama", {"architectures": None}, "unknown architecture"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope type 'yarn'"),
        ("llama", {"num_hidden_layers": 3}, "no tensor for blk.2.attn_norm.weight"),
        ("llama", {"num_hidden_layers": 1}, "has no place in architecture llama"),
        ("llama", {"num_attention_heads": 0}, "no attention heads"),
        ("llama", {"num_hidden_layers": 2**31 - 1}, "num_hidden_layers is 2147483647"),
        ("llama", {"head_dim": 2**30}, "head_dim is 1073741824"),
        ("llama", {"hidden_size": "x"}, "hidden_size is 'x'"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ("gemma3", {"query_pre_attn_scalar": 99}, "query_pre_attn_scalar"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types does not fit"),
        ("bert", {"vocab_size": 5}, "there are 320 words"),
    ],
)
def test_what_we_do_not_run_is_refused(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(FOLDERS / name, tmp_path / "model"))
    change_json(folder, "config.json", **change)
    with pytest.raises(ConversionError) as error:
        converted(folder, tmp_path / "model.gguf")
    assert message in str(error.value)


def test_shards(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS / "llama", tmp_path / "model"))
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    data = shard.read_bytes()
    for cut, message in (
        (data[:-4], "does not have the bytes of its shape"),
        (b"\xff" * 8, "is no safetensors file"),
        (struct.pack("<Q", 4) + b"[1]]", "is no safetensors file"),
        (b"", "is no safetensors file"),
    ):
        shard.write_bytes(cut)
        with pytest.raises(ConversionError, match=message):
            converted(folder, tmp_path / "model.gguf")
    shard.unlink()
    with pytest.raises(
        ConversionError, match=r"is missing, which model-00002-of-00004\.safetensors should have"
    ):
        converted(folder, tmp_path / "model.gguf")


def test_pre_tokenizers() -> None:
    level = {"type": "ByteLevel", "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer_name(level) == "gpt-2"
    assert pre_tokenizer_name({"type": "Sequence", "pretokenizers": [digits, level]}) == "smollm"
    for unknown in (
        None,
        {"type": "Whitespace"},
        {"type": "Sequence", "pretokenizers": [level, {"type": "X"}]},
    ):
        with pytest.raises(ConversionError):
            pre_tokenizer_name(unknown)


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS / "qwen3", tmp_path / "model"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 320, "content": "<image>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    file = GGUFFile(str(converted(folder, tmp_path / "model.gguf")))
    assert file.array_length("tokenizer.ggml.tokens") == 320
    tokenizer["model"]["vocab"]["far"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConversionError, match="the tokenizer has 401 tokens, the embedding 320 rows"):
        converted(folder, tmp_path / "model.gguf")
    tokenizer["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConversionError, match="type Unigram, which is not supported"):
        converted(folder, tmp_path / "model.gguf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="unknown tokenizer format"):
        converted(folder, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens": [5, {"id": "x"}]},
        {"pre_tokenizer": {"type": "Split", "pattern": "x"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": []}}},
        {"post_processor": {"type": "TemplateProcessing", "single": 5}},
        {"model": {"type": "BPE", "vocab": {"a": -1}}},
        {"model": {"type": "BPE", "vocab": {"a": "b"}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": 5},
        {"decoder": [], "model": {"vocab": {}, "merges": []}},
    ],
)
def test_strange_tokenizers(change: dict[str, Any], tmp_path: Path) -> None:
    """Another form than anybody writes: converted or refused, never a crash."""
    folder = Path(shutil.copytree(FOLDERS / "qwen3", tmp_path / "model"))
    change_json(folder, "tokenizer.json", **change)
    with contextlib.suppress(ConversionError):
        converted(folder, tmp_path / "model.gguf")
    change_json(folder, "tokenizer_config.json", added_tokens_decoder={"x": 1, "5": 7}, eos_token=[])
    with contextlib.suppress(ConversionError):
        converted(folder, tmp_path / "model.gguf")
