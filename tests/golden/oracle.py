"""Talks to the oracle program (oracle_llama.cpp, built against a libllama) that ORACLE_LLAMA names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

GOLDEN: Final = Path(__file__).resolve().parent
TEXT: Final = GOLDEN / "text" / "opticks.txt"

Ids = list[int]
F32 = npt.NDArray[np.float32]


def _command(*arguments: str) -> list[str]:
    return [os.environ["ORACLE_LLAMA"], *arguments]


def _ask(jobs: Iterable[str], *arguments: str) -> list[str]:
    text = "".join(f"{job}\n" for job in jobs)
    done = subprocess.run(_command(*arguments), input=text, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def tokenize_all(
    model: Path, texts: Sequence[bytes], *, add_special: bool, parse_special: bool
) -> list[Ids | None]:
    """None where the oracle refuses the text (some invalid UTF-8)."""
    jobs = [f"{int(add_special)} {int(parse_special)} {text.hex()}" for text in texts]
    lines = _ask(jobs, "tokenize", str(model))
    return [None if line == "!" else [int(word) for word in line.split()] for line in lines]


def tokenize(model: Path, text: bytes, *, add_special: bool = False, parse_special: bool = False) -> Ids:
    (ids,) = tokenize_all(model, [text], add_special=add_special, parse_special=parse_special)
    assert ids is not None
    return ids


def logits(
    model: Path, sequences: Sequence[Sequence[int]], first: int, last: int, n_vocab: int, mode: str
) -> Iterator[F32]:
    """Per sequence the logits of positions first..last-1, shape (last - first, n_vocab)."""
    jobs = "".join(f"{first} {last} {' '.join(map(str, ids))}\n" for ids in sequences)
    with subprocess.Popen(
        _command("logits", str(model), mode), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(jobs.encode())
        process.stdin.close()
        for _ in sequences:
            raw = process.stdout.read((last - first) * n_vocab * 4)
            yield np.frombuffer(raw, np.float32).reshape(last - first, n_vocab)


def greedy(model: Path, prompts: Sequence[Sequence[int]], steps: int) -> tuple[npt.NDArray[np.int32], F32]:
    """The two best ids and their log probabilities at each step, both of shape (prompts, steps, 2)."""
    lines = _ask((" ".join(map(str, ids)) for ids in prompts), "greedy", str(model), str(steps))
    table = np.array([line.split() for line in lines], np.float64).reshape(len(prompts), steps, 4)
    return table[:, :, 0::2].astype(np.int32), table[:, :, 1::2].astype(np.float32)


def log_softmax(rows: F32) -> F32:
    top = rows.max(axis=1, keepdims=True)
    total = np.exp(rows - top).sum(axis=1, keepdims=True, dtype=np.float64)
    result: F32 = (rows - top - np.log(total)).astype(np.float32)
    return result
