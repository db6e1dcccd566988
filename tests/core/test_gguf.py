"""The GGUF reader against the `gguf` package's writer and files packed by hand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from raw_gguf import F32, STRING, U8, U32, Raw, array, entry, scalar, small, string, tensor

from ollamapy import _core
from ollamapy._core import GGUFError, GGUFFile


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Raw | bytes], GGUFFile]:
    path = tmp_path / "file.gguf"

    def open_bytes(content: Raw | bytes) -> GGUFFile:
        path.write_bytes(content.bytes() if isinstance(content, Raw) else content)
        return GGUFFile(str(path))

    return open_bytes


Load = Callable[[Raw | bytes], GGUFFile]


Load = Callable[[Raw | bytes], GGUFFile]


def test_agrees_with_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    values: dict[str, Any] = {
        "u8": 255, "i8": -128, "u16": 65535, "i16": -32768, "u32": 2**32 - 1, "i32": -(2**31),
        "u64": 2**64 - 1, "i64": -(2**63), "f64": 0.1, "yes": True, "no": False,
        "text": "Grüße, 世界 \U0001f30d", "words": ["a", "", "ü"], "numbers": [1, -2, 3],
        "floats": [0.5, -1.25], "flags": [True, False, True],
    }  # fmt: skip
    writer.add_uint8("u8", values["u8"])
    writer.add_int8("i8", values["i8"])
    writer.add_uint16("u16", values["u16"])
    writer.add_int16("i16", values["i16"])
    writer.add_uint32("u32", values["u32"])
    writer.add_int32("i32", values["i32"])
    writer.add_uint64("u64", values["u64"])
    writer.add_int64("i64", values["i64"])
    writer.add_float64("f64", values["f64"])
    writer.add_float32("f32", 0.1)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", values["text"])
    for key in ("words", "numbers", "floats", "flags"):
        writer.add_array(key, values[key])
    matrix = rng.normal(size=(6, 64)).astype(np.float32)
    tensors = {
        "plain": matrix,
        "cube": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "four": rng.normal(size=(2, 1, 3, 8)).astype(np.float16),
        "vector": rng.normal(size=5).astype(np.float32),
    }
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    packed = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q5_1)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GGUFFile(str(path))
    assert (file.version, file.alignment, file.size, file.path) == (3, 32, path.stat().st_size, str(path))
    assert sorted(file.keys()) == sorted(["general.architecture", "f32", *values])
    assert file.get("general.architecture") == "llama"
    for key, value in values.items():
        got = file.get(key)
        assert got == value and type(got) is type(value), key
    assert file.get("f32") == np.float32(0.1)
    assert file.get("absent") is None and file.get("absent", 7) == 7
    assert [file.array_length(k) for k in ("words", "numbers", "floats", "flags")] == [3, 3, 2, 3]

    reader = gguf.GGUFReader(path)
    assert file.keys() == [key for key in reader.fields if not key.startswith("GGUF.")]
    assert [t.name for t in file.tensors()] == [t.name for t in reader.tensors]
    for theirs in reader.tensors:
        ours = file.tensor(theirs.name)
        assert ours.shape == tuple(int(n) for n in theirs.shape)
        assert (ours.type, ours.type_id) == (theirs.tensor_type.name, theirs.tensor_type.value)
        assert (ours.offset, ours.nbytes) == (theirs.data_offset, theirs.n_bytes)
        assert file.read(theirs.name).tobytes() == theirs.data.tobytes()
    for name, value in tensors.items():
        got = file.dequantize(name)
        assert got.shape == value.shape and got.dtype == np.float32
        np.testing.assert_array_equal(got, value.astype(np.float32))
    np.testing.assert_array_equal(
        file.dequantize("packed"), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q5_1)
    )


def test_version_2_is_the_same(load: Load) -> None:
    raw = small()
    raw.version = 2
    file = load(raw)
    assert file.version == 2 and file.get("numbers") == [-1, 2, 3]
    np.testing.assert_array_equal(file.dequantize("bias"), np.array([1.5, -2.0], np.float32))


def test_every_alignment_counts(load: Load) -> None:
    for alignment in (8, 16, 64, 4096, 1 << 20):
        raw = Raw([scalar("general.alignment", U32, alignment)], [tensor("t", (3,), 0, 0)], b"\0" * 12)
        raw.alignment = alignment
        file = load(raw)
        assert file.alignment == alignment
        assert file.tensor("t").offset == alignment * -(-len(raw.header()) // alignment)


def test_no_metadata_no_tensors(load: Load) -> None:
    file = load(Raw())
    assert file.keys() == [] and file.tensors() == []


def test_text_that_is_not_utf8_is_replaced(load: Load) -> None:
    file = load(
        Raw(
            [entry("bad", STRING, string(b"a\xffb\xe4")), array("list", STRING, 1, string(b"\xc3\x28"))],
            [],
        )
    )
    assert file.get("bad") == "a�b�" and file.get("list") == ["�("]


def test_types_that_nobody_here_computes_with_stay_in_the_listing(load: Load) -> None:
    names = {39: "MXFP4", 20: "IQ4_NL", 9: "Q8_1", 26: "I32", 4: "type 4", 99: "type 99"}
    names[2**32 - 1] = "type 4294967295"
    for kind, name in names.items():
        file = load(Raw([], [tensor("odd", (33, 3), kind, 0), tensor("plain", (1,), 0, 32)], b"\0" * 36))
        info = file.tensor("odd")
        assert (info.type, info.type_id, info.nbytes, info.shape) == (name, kind, 0, (33, 3))
        with pytest.raises(GGUFError, match=f"'odd' is of type {name}, which is not supported"):
            file.read("odd")
        with pytest.raises(GGUFError, match=f"'odd' is of type {name}"):
            file.dequantize("odd")
        assert file.read("plain").tobytes() == b"\0" * 4


def test_known_names_are_the_fields_names(load: Load) -> None:
    types = list(gguf.GGMLQuantizationType)
    tensors = [tensor(t.name, (256,), t.value, i * 2048) for i, t in enumerate(types)]
    file = load(Raw([], tensors, b"\0" * 2048 * len(types)))
    for t in types:
        assert file.tensor(t.name).type in (t.name, f"type {t.value}")
    assert sum(i.type == i.name for i in file.tensors()) >= 33


def test_look_ups_that_fail(load: Load) -> None:
    file = load(small())
    for call in (file.tensor, file.read, file.dequantize, file.array_length):
        with pytest.raises(KeyError, match="absent"):
            call("absent")
    with pytest.raises(GGUFError, match="'ratio' is not an array"):
        file.array_length("ratio")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        GGUFFile(str(tmp_path / "missing"))
    assert missing.value.filename == str(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        GGUFFile(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GGUFError, match="not a regular file"):
        GGUFFile(str(tmp_path / "pipe"))
    with pytest.raises(ValueError, match="null"):
        GGUFFile("a\0b")


def test_a_path_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf")
    Path(path).write_bytes(small().bytes())
    assert GGUFFile(path).path == path


def test_a_file_cut_short_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(small().bytes())
    file = GGUFFile(str(path))
    os.truncate(path, file.tensor("weight").offset + 10)
    with pytest.raises(GGUFError, match=rf"byte {file.tensor('weight').offset + 10}: it ends here"):
        file.read("weight")
    with pytest.raises(GGUFError, match="it ends here"):
        file.dequantize("bias")


def test_threads_read_one_file(load: Load) -> None:
    file = load(small())
    expected = file.read("weight").tobytes()
    wrong: list[int] = []

    def work() -> None:
        for i in range(200):
            if file.read("weight").tobytes() != expected:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_large_vocabulary_opens_fast(load: Load) -> None:
    words = b"".join(string(f"token{i}") for i in range(262144))
    raw = Raw(
        [
            array("tokenizer.ggml.tokens", STRING, 262144, words),
            array("tokenizer.ggml.scores", F32, 262144, b"\0" * 4 * 262144),
        ]
    )
    load(raw)
    file = load(raw)
    best = 1.0
    for _ in range(5):
        begin = time.perf_counter()
        GGUFFile(file.path)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.2  # about 6 ms; the bound leaves room for a busy machine and sanitizers
    assert file.array_length("tokenizer.ggml.tokens") == 262144
    tokens = file.get("tokenizer.ggml.tokens")
    assert tokens[0] == "token0" and tokens[-1] == "token262143"
    assert file.get("tokenizer.ggml.scores")[-1] == 0.0


def test_strings_longer_than_a_read_block(load: Load) -> None:
    long = "x" * 700_001
    raw = Raw(
        [
            entry("a", STRING, string(long)),
            entry("b", STRING, string("short")),
            array("c", U8, 600_000, b"\7" * 600_000),
            array("d", STRING, 2, string(long) + string("end")),
        ]
    )
    file = load(raw)
    assert file.get("a") == long and file.get("b") == "short" and file.get("d") == [long, "end"]
    assert file.get("c") == [7] * 600_000


def test_dequantize_checks_sizes() -> None:
    block = np.zeros(34, np.uint8)
    assert _core.dequantize(8, block, 32).shape == (32,)
    assert _core.dequantize(8, np.zeros(0, np.uint8), 0).shape == (0,)
    wrong = [(8, block, 31), (8, block, 64), (8, block[:33], 32), (8, block, -32), (8, block, 2**62)]
    for kind, data, count in [*wrong, (39, block, 32), (0, block, 8)]:
        with pytest.raises(ValueError):
            _core.dequantize(kind, data, count)
