"""Peers, built outside the project. Their paths come from the environment:

LLAMA_BENCH      llama.cpp's llama-bench
IK_LLAMA_BENCH   ik_llama.cpp's llama-bench (run with run-time repacking)
LLAMA_BATCHED    llama.cpp's llama-batched-bench
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """A llama-bench of some engine."""

    name: str
    program: str
    extra: tuple[str, ...] = ()

    def _bench(self, model: Path, threads: int, *what: str) -> float:
        command = [
            self.program,
            "-m",
            str(model),
            "-t",
            str(threads),
            "-ngl",
            "0",
            "-r",
            "1",
            "-o",
            "json",
            *what,
            *self.extra,
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(json.loads(out[out.index("[") :])[-1]["avg_ts"])

    def prefill(self, model: Path, threads: int, tokens: int) -> float:
        return self._bench(model, threads, "-p", str(tokens), "-n", "0", "-ub", "512")

    def decode(self, model: Path, threads: int, tokens: int, depth: int = 0) -> float:
        if depth == 0:
            return self._bench(model, threads, "-p", "0", "-n", str(tokens))
        return self._bench(model, threads, "-p", "0", "-n", str(tokens), "-d", str(depth))


@dataclass(frozen=True)
class Batched:
    """llama-batched-bench: several streams in one batch."""

    program: str

    def decode(self, model: Path, threads: int, tokens: int, streams: int) -> float:
        command = [
            self.program,
            "-m",
            str(model),
            "-t",
            str(threads),
            "-ngl",
            "0",
            "-c",
            str(streams * (tokens + 32)),
        ]
        command += ["-npp", "16", "-ntg", str(tokens), "-npl", str(streams), "--output-format", "jsonl"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return float(rows[-1]["speed_tg"])


def from_environment() -> tuple[list[Peer], Batched | None]:
    """The peers that the environment names."""
    peers = []
    if program := os.environ.get("LLAMA_BENCH"):
        peers.append(Peer("llama.cpp", program))
    if program := os.environ.get("IK_LLAMA_BENCH"):
        peers.append(Peer("ik_llama.cpp", program, ("-rtr", "1")))
    batched = os.environ.get("LLAMA_BATCHED")
    return peers, Batched(batched) if batched else None
