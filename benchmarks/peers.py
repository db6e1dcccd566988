"""Peers, built outside the project. Their paths come from the environment:

LLAMA_BENCH       llama.cpp's llama-bench
LLAMA_BATCHED     llama.cpp's llama-batched-bench
LLAMA_SERVER      llama.cpp's llama-server
IK_LLAMA_BENCH    ik_llama.cpp's llama-bench (all of its programs run with run-time repacking)
IK_LLAMA_SWEEP    ik_llama.cpp's llama-sweep-bench, for decoding at a depth, which its llama-bench lacks
IK_LLAMA_BATCHED  ik_llama.cpp's llama-batched-bench
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SWEEP_ROWS = 512  # tokens between two depths of a sweep


@dataclass(frozen=True)
class Peer:
    """The programs of some engine; one that is None gives no figure."""

    name: str
    bench: str | None
    batched: str | None
    sweep: str | None = None
    repack: bool = False

    def missing(self) -> list[str]:
        """The environment variables of the programs that are not there."""
        prefix = "IK_" if self.repack else ""
        programs = {"LLAMA_BENCH": self.bench, "LLAMA_BATCHED": self.batched}
        if self.repack:
            programs["LLAMA_SWEEP"] = self.sweep
        return [prefix + name for name, program in programs.items() if program is None]

    def version(self) -> str | None:
        """What a program of it says of itself, None when there is none."""
        program = self.batched or self.bench
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program, "--version"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        lines = [line for line in done.stdout.splitlines() if line.startswith("version:")]
        return lines[0].removeprefix("version:").strip() if lines else "unknown"

    def prefill(self, model: Path, threads: int, tokens: int) -> float | None:
        """Tokens per second of one prompt."""
        if self.bench is None:
            return None
        return self._bench(self.bench, model, threads, "-p", str(tokens), "-n", "0", "-ub", "512")

    def decode(self, model: Path, threads: int, tokens: int, depth: int = 0) -> float | None:
        """Tokens per second of one stream after a prompt of `depth`."""
        if depth > 0 and self.sweep is not None:
            return self._swept(self.sweep, model, threads, tokens, depth)
        if self.bench is None or (depth > 0 and self.repack):
            return None
        at = ("-d", str(depth)) if depth else ()
        return self._bench(self.bench, model, threads, "-p", "0", "-n", str(tokens), *at)

    def streams(self, model: Path, threads: int, tokens: int, streams: int) -> float | None:
        """Tokens per second of several streams in one batch together."""
        if self.batched is None:
            return None
        what = ["-c", str(streams * (tokens + 32)), "-npp", "16", "-ntg", str(tokens), "-npl", str(streams)]
        for line in reversed(self._run(self.batched, model, threads, *what, *self._flag()).splitlines()):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if line.startswith("|") and cells[0].isdigit():
                return float(cells[7])  # PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG
        raise RuntimeError(f"{self.batched} printed no figures")

    def _flag(self) -> list[str]:
        return ["-rtr"] if self.repack else []

    def _bench(self, program: str, model: Path, threads: int, *what: str) -> float:
        flag = ["-rtr", "1"] if self.repack else []
        out = self._run(program, model, threads, "-r", "1", "-o", "json", *what, *flag)
        start = out.index("[\n")
        return float(json.JSONDecoder().raw_decode(out[start:])[0][-1]["avg_ts"])

    def _swept(self, program: str, model: Path, threads: int, tokens: int, depth: int) -> float:
        what = ["-c", str(depth + SWEEP_ROWS), "-ub", str(SWEEP_ROWS), "-n", str(tokens)]
        out = self._run(program, model, threads, *what, *self._flag(), "--output-format", "jsonl")
        rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"n_kv_max"')]
        return next(float(row["speed_tg"]) for row in rows if row["n_kv"] == depth)

    @staticmethod
    def _run(program: str, model: Path, threads: int, *what: str) -> str:
        command = [str(Path(program).resolve()), "-m", str(model.resolve()), "-t", str(threads)]
        command += ["-ngl", "0", *what]
        with tempfile.TemporaryDirectory() as scratch:  # some leave a log where they run
            done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr[-500:]}")
        return done.stdout + done.stderr  # some print their table to one, some to the other


def program(name: str) -> str | None:
    """The program that an environment variable names, None when it is not there."""
    path = os.environ.get(name)
    return path if path and Path(path).is_file() else None


def from_environment() -> list[Peer]:
    """Both peers; those programs that the environment does not name, or that are no files, are None."""
    return [
        Peer("llama.cpp", program("LLAMA_BENCH"), program("LLAMA_BATCHED")),
        Peer(
            "ik_llama.cpp",
            program("IK_LLAMA_BENCH"),
            program("IK_LLAMA_BATCHED"),
            program("IK_LLAMA_SWEEP"),
            True,
        ),
    ]
