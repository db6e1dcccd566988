"""GGUF files that lie: every check of the reader, truncation everywhere, random mutation.

A refusal is a GGUFError that names the field and the byte offset.
"""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import pytest
from raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Raw,
    array,
    entry,
    scalar,
    small,
    string,
    tensor,
)

from ollamapy._core import GGUFError, GGUFFile

HEADER = 24  # magic, version, tensor count, metadata count
HUGE = 2**63 - 1


def one_entry(packed: bytes) -> Raw:
    return Raw([packed])


def one_tensor(packed: bytes, data: bytes = b"") -> Raw:
    return Raw([], [packed], data)


REFUSED: dict[str, tuple[Raw | bytes, str]] = {
    "empty file": (b"", r"magic at byte 0: the file is cut short: 4 bytes needed, 0 left"),
    "short magic": (b"GGU", r"magic at byte 0: the file is cut short"),
    "other magic": (Raw(magic=b"GGML"), r"magic at byte 0: this is not a GGUF file"),
    "big-endian magic": (Raw(magic=b"FUGG"), r"magic at byte 0: big-endian"),
    "big-endian version": (Raw(version=0x03000000), r"version at byte 4: big-endian"),
    "version 0": (Raw(version=0), r"version at byte 4: GGUF version 0 is not supported"),
    "version 1": (Raw(version=1), r"version at byte 4: GGUF version 1 is not supported, only 2 and 3 are"),
    "version 4": (Raw(version=4), r"version at byte 4: GGUF version 4 "),
    "cut in the counts": (
        Raw().bytes()[:20],
        r"metadata count at byte 16: the file is cut short: 8 bytes needed, 4 left",
    ),
    "tensor count": (Raw(n_tensors=HUGE), r"tensor count at byte 8: \d+ is too large"),
    "tensor count for the file": (
        Raw(n_tensors=2),
        r"tensor count at byte 8: 2 items of at least 33 bytes do not fit",
    ),
    "tensor count after metadata": (
        Raw([scalar("a", U64, 0), scalar("b", U64, 0)], n_tensors=1),
        r"tensor count at byte 8: 1 items",
    ),
    "metadata count": (Raw(n_metadata=2**64 - 1), r"metadata count at byte 16: \d+ is too large"),
    "metadata count for the file": (
        Raw(n_metadata=1),
        r"metadata count at byte 16: 1 items of at least 14 bytes",
    ),
    "key length": (
        one_entry(struct.pack("<Q", HUGE) + b"\0" * 20),
        rf"metadata #0 key at byte {HEADER}: the file is cut short: {HUGE} bytes needed, 20 left",
    ),
    "key length wraps": (one_entry(struct.pack("<Q", 2**64 - 1) + b"\0" * 20), rf"#0 key at byte {HEADER}"),
    "empty key": (one_entry(scalar("", U64, 1)), rf"metadata #0 key at byte {HEADER}: it is empty"),
    "long key": (one_entry(scalar("k" * 65536, U64, 1)), rf"key at byte {HEADER}: 65536 bytes are too many"),
    "same key": (
        Raw([scalar("key", U8, 1), scalar("key", U8, 2)]),
        rf"metadata 'key' key at byte {HEADER + 16}: this key was there before",
    ),
    "value type": (
        one_entry(entry("k", 13, b"\0" * 8)),
        rf"metadata 'k' type at byte {HEADER + 9}: unknown value type 13",
    ),
    "cut in a value": (
        one_entry(entry("k", U64, b"\0" * 5)),
        rf"metadata 'k' value at byte {HEADER + 13}: the file is cut",
    ),
    "bool": (
        one_entry(entry("k", BOOL, b"\2")),
        rf"metadata 'k' value at byte {HEADER + 13}: a bool is 0 or 1, not 2",
    ),
    "string length": (
        one_entry(entry("k", STRING, struct.pack("<Q", 5) + b"abcd")),
        rf"metadata 'k' value at byte {HEADER + 13}: the file is cut short: 5 bytes needed, 4 left",
    ),
    "array type": (
        one_entry(array("k", 77, 1, b"\0")),
        rf"metadata 'k' array type at byte {HEADER + 13}: unknown value type 77",
    ),
    "nested array": (
        one_entry(array("k", ARRAY, 1, struct.pack("<IQ", U8, 1) + b"\0")),
        rf"metadata 'k' array type at byte {HEADER + 13}: arrays of arrays are not supported",
    ),
    "array of bools": (
        one_entry(array("k", BOOL, 3, b"\1\0\3")),
        rf"metadata 'k' array value at byte {HEADER + 27}: a bool is 0 or 1, not 3",
    ),
    "array of strings": (
        one_entry(array("k", STRING, 2, string("ab") + struct.pack("<Q", 9) + b"c")),
        rf"metadata 'k' array value at byte {HEADER + 35}: the file is cut short: 9 bytes needed, 1 left",
    ),
    **{
        f"array of type {kind}, length {count}": (
            one_entry(array("k", kind, count, b"\0" * 64)),
            rf"metadata 'k' array length at byte {HEADER + 17}: {count} items of at least {size} bytes do",
        )
        for kind, size in [
            (U8, 1),
            (I8, 1),
            (U16, 2),
            (I16, 2),
            (U32, 4),
            (I32, 4),
            (F32, 4),
            (BOOL, 1),
            (STRING, 8),
            (U64, 8),
            (I64, 8),
            (F64, 8),
        ]
        for count in (64 // size + 1, HUGE, 2**64 - 1, 2**64 // size)
        if count < 2**64
    },
    "alignment type": (
        one_entry(entry("general.alignment", STRING, string("32"))),
        rf"'general.alignment' value at byte {HEADER + 25}: the alignment is not an unsigned integer",
    ),
    **{
        f"alignment {value}": (
            one_entry(scalar("general.alignment", U32, value)),
            rf"'general.alignment' value at byte {HEADER + 25}: the alignment {value} is not a power of two",
        )
        for value in (0, 1, 4, 12, 33, 48, 2**21, 2**31, 2**32 - 1)
    },
    "tensor name length": (
        one_tensor(struct.pack("<Q", 2**64 - 1) + b"\0" * 40),
        rf"tensor #0 name at byte {HEADER}: the file is cut short",
    ),
    "empty tensor name": (
        one_tensor(tensor("", (1,), 0, 0), b"\0" * 4),
        rf"tensor #0 name at byte {HEADER}: it is empty",
    ),
    "long tensor name": (
        one_tensor(tensor("n" * 1025, (1,), 0, 0), b"\0" * 4),
        rf"name at byte {HEADER}: 1025 bytes",
    ),
    "same tensor name": (
        Raw([], [tensor("n", (1,), 0, 0), tensor("n", (1,), 0, 32)], b"\0" * 64),
        rf"tensor 'n' name at byte {HEADER + 33}: this name was there before",
    ),
    "no dimensions": (
        one_tensor(tensor("n", (), 0, 0) + b"\0" * 8),
        rf"tensor 'n' dimension count at byte {HEADER + 9}: 0 is not between 1 and 4",
    ),
    "five dimensions": (
        one_tensor(tensor("n", (1,) * 5, 0, 0), b"\0" * 4),
        r"dimension count at byte 33: 5 is not between",
    ),
    "many dimensions": (
        one_tensor(string("n") + struct.pack("<I", 2**32 - 1) + b"\0" * 40),
        r"dimension count at byte 33: 4294967295 is not",
    ),
    "zero dimension": (
        one_tensor(tensor("n", (4, 0), 0, 0)),
        r"tensor 'n' shape at byte 45: dimension 0 is out of range",
    ),
    "negative dimension": (
        one_tensor(tensor("n", (2**64 - 1,), 0, 0)),
        r"shape at byte 37: dimension 18446744073709551615",
    ),
    "product overflows": (
        one_tensor(tensor("n", (2**32, 2**31), 0, 0)),
        r"shape at byte 37: the product of the dimensions",
    ),
    "product wraps to zero": (
        one_tensor(tensor("n", (2**32, 2**32), 0, 0)),
        r"shape at byte 37: the product",
    ),
    "product of unknown type": (
        one_tensor(tensor("n", (2**62, 2, 2), 99, 0)),
        r"shape at byte 37: the product",
    ),
    "bytes overflow": (
        one_tensor(tensor("n", (2**62,), 0, 0)),
        r"shape at byte 37: the size in bytes overflows",
    ),
    "part of a block": (
        one_tensor(tensor("n", (48, 2), 8, 0), b"\0" * 102),
        r"tensor 'n' shape at byte 37: rows of 48 values are no multiple of the 32 values in a block of Q8_0",
    ),
    "cut in a tensor": (
        one_tensor(tensor("n", (1,), 0, 0)).header()[:-1] + b"",
        r"tensor count at byte 8: 1 items",
    ),
    "cut in the last tensor": (
        Raw([], [tensor("long name", (1,), 0, 0)]).header()[:-3],
        r"tensor 'long name' offset at byte 57: the file is cut short: 8 bytes needed, 5 left",
    ),
    "offset not aligned": (
        one_tensor(tensor("n", (1,), 0, 16), b"\0" * 32),
        r"tensor 'n' offset at byte 49: 16 is not a multiple of the alignment 32",
    ),
    "data beyond the file": (
        one_tensor(tensor("n", (9,), 0, 0), b"\0" * 35),
        r"tensor 'n' offset at byte 49: 36 bytes at 0 of the data, which begins at 64, lie beyond",
    ),
    "offset beyond the file": (
        one_tensor(tensor("n", (1,), 0, 64), b"\0" * 32),
        r"offset at byte 49: 4 bytes at 64",
    ),
    "offset wraps": (
        one_tensor(tensor("n", (8,), 0, 2**64 - 32), b"\0" * 64),
        r"offset at byte 49: 32 bytes at 184",
    ),
    "offset of unknown type": (
        one_tensor(tensor("n", (8,), 99, 2**40), b"\0" * 64),
        r"offset at byte 49: 0 bytes at",
    ),
    "no data at all": (
        one_tensor(tensor("n", (1,), 0, 0)).header(),
        r"offset at byte 49: 4 bytes at 0 of the data",
    ),
    "data overlaps": (
        Raw([], [tensor("b", (8,), 0, 32), tensor("a", (16,), 0, 0)], b"\0" * 64),
        r"tensor 'b' offset at byte 49: its data overlaps that of tensor 'a'",
    ),
    "data inside of data": (
        Raw([], [tensor("a", (64,), 0, 0), tensor("b", (1,), 0, 32), tensor("c", (1,), 0, 128)], b"\0" * 256),
        r"tensor 'b' offset at byte 82: its data overlaps that of tensor 'a'",
    ),
    "same data": (
        Raw([], [tensor("a", (8,), 0, 0), tensor("b", (8,), 0, 0)], b"\0" * 32),
        r"tensor 'b' offset at byte 82: its data overlaps that of tensor 'a'",
    ),
    "keys are ASCII": (one_entry(entry(b"a\xff", 4, b"\0" * 4)), r"key at byte 24: it is not ASCII"),
    "names are ASCII": (
        Raw([], [tensor(b"n\xc3\xa9", (1,), 0, 0)], b"\0" * 4),
        r"tensor #0 name at byte 24: it is not ASCII",
    ),
    "names are printable": (
        one_entry(entry(b"a\x00\x7f\n" + b"k" * 100, 13, b"\0")),
        r"metadata 'a\\x00\\x7f\\x0a" + "k" * 76 + r"\.\.\.' type at byte \d+: unknown value type 13",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content.bytes() if isinstance(content, Raw) else content)
    with pytest.raises(GGUFError, match=message):
        GGUFFile(str(path))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(small().bytes())
    GGUFFile(str(path))
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(GGUFError, match=r" at byte \d+: "):
            GGUFFile(str(path))


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    """A sparse file costs its author nothing; it must not cost us its size in memory."""
    path = tmp_path / "sparse.gguf"
    size = 1 << 40
    for packed in (
        entry("k", STRING, struct.pack("<Q", 1 << 39)),
        array("k", U64, 1 << 36, b""),
        array("k", STRING, 1 << 36, b""),
        array("k", BOOL, 1 << 36, b""),
    ):
        path.write_bytes(Raw([packed]).bytes())
        os.truncate(path, size)
        begin = time.perf_counter()
        with pytest.raises(GGUFError, match=r"'k' .* at byte \d+: .*header"):
            GGUFFile(str(path))
        assert time.perf_counter() - begin < 2


def test_mutations_parse_or_are_refused(tmp_path: Path) -> None:
    """Bytes, words and lengths of a valid file changed at random, parts removed and repeated: GGUFError or a
    file that can be read from end to end, nothing else."""
    rng = random.Random(20240607)
    base = small().bytes()
    path = tmp_path / "mutated.gguf"
    words = [
        0,
        1,
        2,
        7,
        8,
        9,
        12,
        13,
        31,
        32,
        33,
        255,
        256,
        2**31,
        2**32 - 1,
        2**32,
        2**61,
        2**62,
        2**63,
        2**64 - 1,
    ]
    outcomes = {"parsed": 0, "refused": 0}
    begin = time.perf_counter()
    for _ in range(3000):
        data = bytearray(base)
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.randrange(len(data))
            match rng.randrange(6):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    data[at] ^= 1 << rng.randrange(8)
                case 2:
                    data[at : at + 8] = struct.pack("<Q", rng.choice(words))
                case 3:
                    data[at : at + 4] = struct.pack("<I", rng.choice(words) & 0xFFFFFFFF)
                case 4:
                    del data[at : at + rng.randrange(1, 16)]
                case 5:
                    data[at:at] = data[at : at + rng.randrange(1, 16)]
        path.write_bytes(data)
        try:
            file = GGUFFile(str(path))
        except GGUFError as error:
            outcomes["refused"] += 1
            assert " at byte " in str(error)
            continue
        outcomes["parsed"] += 1
        for key in file.keys():  # noqa: SIM118
            file.get(key.encode(errors="replace").decode())
        for info in file.tensors():
            assert info.offset + info.nbytes <= file.size
            if "�" in info.name:
                continue
            try:
                file.dequantize(info.name)
            except GGUFError as error:
                assert "not supported" in str(error)
    assert time.perf_counter() - begin < 60
    assert outcomes["parsed"] > 150 and outcomes["refused"] > 1000, outcomes
