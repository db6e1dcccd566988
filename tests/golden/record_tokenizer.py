"""Records how llama.cpp tokenizes the strings of strings.py with the vocabulary of a GGUF.

ORACLE_LLAMA=... python record_tokenizer.py NAME model.gguf

Writes tokenizer/NAME.json, a list of {"text" or "hex", "plain", "parsed", "full"}: neither special flag,
parse_special alone, parse_special and add_special. "parsed" and "full" are left out where equal to "plain".
Strings that it refuses are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import oracle
from strings import STRINGS, as_json


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    plain = oracle.tokenize_all(args.model, STRINGS, add_special=False, parse_special=False)
    parsed = oracle.tokenize_all(args.model, STRINGS, add_special=False, parse_special=True)
    full = oracle.tokenize_all(args.model, STRINGS, add_special=True, parse_special=True)
    lines = []
    for text, a, b, c in zip(STRINGS, plain, parsed, full, strict=True):
        if a is None:
            continue
        vector: dict[str, object] = {**as_json(text), "plain": a}
        vector |= {"parsed": b} if b != a else {}
        vector |= {"full": c} if c != a else {}
        lines.append(json.dumps(vector, ensure_ascii=False))
    out = oracle.GOLDEN / "tokenizer" / f"{args.name}.json"
    out.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(out.name, len(lines), "strings", out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
