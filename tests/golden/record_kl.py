"""Records llama.cpp's F32 distributions over English text and how far its default evaluation is from them.

ORACLE_LLAMA=... python record_kl.py NAME quantized.gguf f32.gguf --full DIRECTORY

writes kl-NAME.npz here (see kl.py) and, into DIRECTORY, all reference log probabilities (too big to commit).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import kl
import numpy as np
import oracle
from gguf import GGUFReader


def make_chunks(model: Path, count: int) -> list[list[int]]:
    text = oracle.TEXT.read_bytes()
    ids = oracle.tokenize(model, text)
    head = oracle.tokenize(model, b"", add_special=True)
    body = kl.CHUNK - len(head)
    assert len(ids) >= body * count
    return [head + ids[i * body : (i + 1) * body] for i in range(count)]


def perplexities(logprobs: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    targets = chunks[:, kl.FIRST + 1 :].reshape(-1, 1)
    scores = np.take_along_axis(logprobs, targets, axis=1).reshape(len(chunks), kl.SCORED)
    return np.asarray(np.exp(-scores.mean(axis=1, dtype=np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("model", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--full", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--chunks", type=int, default=22)
    parser.add_argument("--top", type=int, default=32)
    args = parser.parse_args()

    chunks = make_chunks(args.model, args.chunks)
    n_vocab = len(GGUFReader(args.model).fields["tokenizer.ggml.tokens"].data)
    tokens = np.array(chunks)
    last = kl.CHUNK - 1
    args.full.mkdir(parents=True, exist_ok=True)
    np.save(args.full / "tokens.npy", tokens)
    shape = (len(chunks) * kl.SCORED, n_vocab)
    full = np.lib.format.open_memmap(args.full / "logprobs.npy", "w+", np.dtype(args.dtype), shape)

    packed, perplexity_f32 = [], []
    for i, rows in enumerate(oracle.logits(args.reference, chunks, kl.FIRST, last, n_vocab, "f32")):
        logprobs = oracle.log_softmax(rows)
        full[i * kl.SCORED : (i + 1) * kl.SCORED] = logprobs
        packed.append(kl.pack(logprobs, args.top))
        perplexity_f32.append(perplexities(logprobs, tokens[i : i + 1])[0])
    golden: dict[str, Any] = {key: np.concatenate([part[key] for part in packed]) for key in packed[0]}
    golden |= {"tokens": tokens.astype(np.int32), "perplexity_f32": np.array(perplexity_f32)}
    reference = kl.unpack(golden)

    full_kl, truncated, perplexity_default = [], [], []
    for i, rows in enumerate(oracle.logits(args.model, chunks, kl.FIRST, last, n_vocab, "default")):
        logprobs = oracle.log_softmax(rows)
        exact = np.asarray(full[i * kl.SCORED : (i + 1) * kl.SCORED], np.float32)
        full_kl.append((np.exp(exact) * (exact - logprobs)).sum(axis=1, dtype=np.float64))
        truncated.append(reference.truncated_kl(i * kl.SCORED, logprobs))
        perplexity_default.append(perplexities(logprobs, tokens[i : i + 1])[0])
    golden["perplexity_default"] = np.array(perplexity_default)
    golden["kl_default"] = np.mean(full_kl)
    golden["kl_default_truncated"] = np.mean(truncated)
    out = oracle.GOLDEN / f"kl-{args.name}.npz"
    np.savez_compressed(out, **golden)
    np.save(args.full / "kl_default.npy", np.concatenate(full_kl))
    np.save(args.full / "kl_default_truncated.npy", np.concatenate(truncated))
    for key in ("perplexity_f32", "perplexity_default"):
        print(key, float(np.exp(np.log(golden[key]).mean())))
    print("mean KL", golden["kl_default"], "truncated", golden["kl_default_truncated"])


if __name__ == "__main__":
    main()
