"""Writes unicode_tables.h from Python's unicodedata.

    python make_unicode_tables.py > unicode_tables.h

Run it with the newest Python at hand: the version of Unicode is that of its unicodedata module (3.13 has
15.1, with which llama.cpp's tables agree).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

CODE_POINTS = range(0x110000)
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic
# White_Space of PropList.txt; unicodedata does not carry it (str.isspace() also takes U+001C to U+001F).
SPACES = {*range(0x09, 0x0E), *range(0x2000, 0x200B)}
SPACES |= {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}

LETTER, NUMBER, MARK, NONSPACING, PUNCTUATION, CONTROL, SPACE = (1 << bit for bit in range(7))


def traits(code: int) -> int:
    category = unicodedata.category(chr(code))
    bits = {"L": LETTER, "N": NUMBER, "M": MARK, "P": PUNCTUATION}.get(category[0], 0)
    bits |= NONSPACING if category == "Mn" else 0
    bits |= CONTROL if category in ("Cc", "Cf", "Co", "Cs") else 0
    return bits | (SPACE if code in SPACES else 0)


def trait_ranges() -> list[str]:
    """Where the traits change: first code point << 8 | traits."""
    rows, previous = [], -1
    for code in CODE_POINTS:
        if (bits := traits(code)) != previous:
            rows.append(f"0x{code << 8 | bits:X}")
            previous = bits
    return rows


def lowercase_runs() -> list[str]:
    """{first, last, step, difference}: simple lower case of every step-th code point from first to last."""
    pairs = []
    for code in CODE_POINTS:
        lower = "i" if code == 0x130 else chr(code).lower()  # U+0130 alone has two code points
        if ord(lower) != code:
            pairs.append((code, ord(lower) - code))
    runs: list[list[int]] = []
    for code, difference in pairs:
        if runs and runs[-1][3] == difference:
            first, last, step, _ = runs[-1]
            gap = code - last
            if gap <= 2 and (first == last or gap == step):
                runs[-1][1:3] = [code, gap]
                continue
        runs.append([code, code, 1, difference])
    return [f"{{0x{first:X}, 0x{last:X}, {step}, {difference}}}" for first, last, step, difference in runs]


def bases() -> list[str]:
    """{code, a, b, c}: the canonical decomposition without its nonspacing marks (zeros pad it)."""
    rows = []
    for code in CODE_POINTS:
        if code in HANGUL or 0xD800 <= code < 0xE000 or unicodedata.category(chr(code)) == "Mn":
            continue
        parts = [c for c in unicodedata.normalize("NFD", chr(code)) if unicodedata.category(c) != "Mn"]
        if parts != [chr(code)]:
            assert 1 <= len(parts) <= 3, hex(code)
            rows.append("{" + ", ".join(f"0x{c:X}" for c in [code, *map(ord, parts)]) + "}")
    return rows


def table(declaration: str, rows: Iterable[str]) -> None:
    print(f"inline constexpr {declaration}[] = {{")
    line = "   "
    for row in rows:
        if len(line) + len(row) + 2 > 110:
            print(line)
            line = "   "
        line += f" {row},"
    print(f"{line}\n}};\n")


def main() -> None:
    print(f"// Unicode {unicodedata.unidata_version}, written by make_unicode_tables.py.")
    print("// Traits, lower case and base characters; unicode.cpp reads them.")
    print("#pragma once\n\n#include <cstdint>\n\nnamespace ollamapy::unicode_tables {\n")
    print("// clang-format off")
    print("struct LowercaseRun { uint32_t first, last; int32_t step, difference; };")
    print("struct Base { uint32_t code, parts[3]; };\n")
    print("// First code point << 8 | traits; a range ends where the next begins.")
    table("uint32_t kTraits", trait_ranges())
    table("LowercaseRun kLowercase", lowercase_runs())
    table("Base kBases", (row.replace(", ", ", {", 1) + "}" for row in bases()))
    print("// clang-format on\n}  // namespace ollamapy::unicode_tables")


if __name__ == "__main__":
    main()
