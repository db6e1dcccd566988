"""Records all-MiniLM-L6-v2's embeddings (F32, mean pooled, normalized) and WordPiece vectors.

python record_minilm.py DIRECTORY_OF_SAFETENSORS

Writes minilm.npz: texts (20), ids (all in a row), lengths (20), embeddings (20, 384), by transformers; and
tokenizer/minilm.json by tokenizers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import oracle
import torch
from strings import STRINGS, as_json
from tokenizers import Tokenizer
from transformers import BertModel

TEXTS = [
    "Hello world",
    "The sky is blue because of Rayleigh scattering.",
    "Why does the sky look blue?",
    "A man is eating a piece of bread.",
    "Someone is having lunch.",
    "The stock market fell sharply on Tuesday.",
    "def add(a, b):\n    return a + b",
    "SELECT name FROM users WHERE id = 42;",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le café est fermé aujourd'hui.",
    "東京は日本の首都です。",
    "Москва — столица России.",
    "I ❤️ pizza 🍕!!!",
    "x",
    "",
    "   lots   of \t white\n\nspace   ",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "1234567890 3.14159 $99.95 50%",
    "",  # replaced by a long excerpt
    "",  # and by one beyond the 512 tokens of the model
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    book = oracle.TEXT.read_text(encoding="utf-8")
    texts = [*TEXTS[:-2], book[:1200], book[5000:9000]]

    tokenizer: Tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model = BertModel.from_pretrained(args.model, attn_implementation="eager", dtype=torch.float32).eval()
    ids, embeddings = [], []
    for text in texts:
        row = tokenizer.encode(text).ids
        row = row if len(row) <= 512 else [*row[:511], row[-1]]  # [CLS] ... [SEP]
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([row])).last_hidden_state[0]
        mean = hidden.mean(dim=0)
        ids.append(np.array(row, np.int32))
        embeddings.append((mean / mean.norm()).numpy())
    np.savez_compressed(
        oracle.GOLDEN / "minilm.npz",
        texts=np.array(texts),
        ids=np.concatenate(ids),
        lengths=np.array([len(row) for row in ids], np.int32),
        embeddings=np.stack(embeddings),
    )

    vectors = []
    for data in STRINGS:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        vectors.append({**as_json(data), "plain": plain, "full": tokenizer.encode(text).ids})
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors)
    (oracle.GOLDEN / "tokenizer" / "minilm.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
