"""Seeded mutations of good inputs: what a broken disk, a careless tool or an attacker makes of them."""

from __future__ import annotations

import math
import random
import struct

_INTEGERS = (
    0,
    1,
    2,
    7,
    31,
    32,
    255,
    65535,
    *(2**n + d for n in (31, 32, 62, 63) for d in (-1, 0)),
    2**64 - 1,
)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 3e38, math.inf, -math.inf, math.nan)
_TOKENS = (
    "{{", "}}", "{%", "%}", "{{-", "-}}", "{#", "end", "range", "range .Messages", "if", "else", "with", "define",
    "template", "block", "break", "index", "slice", "printf", "%999999999d", "%s", "len", "and", "or", "not", ":=",
    "|", ".", "$", "$x", "(", ")", '"', "`", "'", "\\", "\x00", "é", "\ud83d", "for", "in", "range(10**9)",
    "* 10**9", "macro", "set", "loop", "tojson", "[", "]", "{", "}", ",", ":", "null", "true", "-1", "1e999",
    "99999999999999999999", '"\\ud800"', "\n", " ",
)  # fmt: skip


def mutate_bytes(data: bytes, dice: random.Random, header: int) -> bytes:
    """A few changes, often one, nearly all of them within the first header bytes."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        end = min(len(out), header if dice.random() < 0.95 else len(out))
        if not end:
            return bytes(out)
        at = dice.randrange(end)
        kind = dice.choice((0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7))
        if kind == 0:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[at] = dice.randrange(256)
        elif kind == 2:
            out[at : at + 4] = struct.pack("<I", dice.choice(_INTEGERS) & 0xFFFFFFFF)
        elif kind == 3:
            out[at : at + 8] = struct.pack("<Q", dice.choice(_INTEGERS))
        elif kind == 4:
            out[at : at + 4] = struct.pack("<f", dice.choice(_FLOATS))
        elif kind == 5:
            del out[at : at + dice.randint(1, 64)]
        elif kind == 6:
            source = dice.randrange(end)
            out[at:at] = out[source : source + dice.randint(1, 64)]
        else:
            del out[dice.randrange(len(out)) :]
    return bytes(out)


def mutate_text(text: str, dice: random.Random) -> str:
    """One to six changes: characters and words go, come, repeat and swap."""
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(text) + 1)
        length = dice.randint(1, 24)
        kind = dice.randrange(5)
        if kind == 0:
            text = text[:at] + text[at + length :]
        elif kind == 1:
            text = text[:at] + dice.choice(_TOKENS) + text[at:]
        elif kind == 2:
            text = text[:at] + text[at : at + length] * dice.randint(2, 50) + text[at + length :]
        elif kind == 3:
            other = dice.randrange(len(text) + 1)
            text = text[:at] + text[other : other + length] + text[at:]
        else:
            text = text[:at] + dice.choice(_TOKENS) + text[at + length :]
    return text
