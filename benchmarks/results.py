"""Figures of `python -m benchmarks.compare` as a JSON file: runs, and what each of them measured.

    {"runs": {ID: {"date", "command", "cpu", "isa", "threads", "peers": {NAME: VERSION or null}, "failures": [TEXT],
                   "peaks": {"int8", "f32", "bandwidth"}, "models": {NAME: {"token_bytes", "work": {…}}}}},
     "samples": [{"run": ID, "round", "model", "engine", "kind", "tokens", "depth", "streams", "speed"}]}

Speeds are tokens per second of all streams together. Ratios are taken within a round of a run, so files may be merged.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollamapy.engine.bench import Case

OURS = "ollamapy"
_CASE = ("kind", "tokens", "depth", "streams")
_KEY = ("run", "round", "model", "engine", *_CASE)


class ResultsError(ValueError):
    """A file that does not hold figures."""


@dataclass
class Results:
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises ResultsError, OSError."""
        try:
            value = json.loads(path.read_bytes())
            found = cls(dict(value["runs"]), list(value["samples"]))
            models = {name: run["models"] for name, run in found.runs.items()}
            for sample in found.samples:
                if {*_KEY, "speed"} - sample.keys() or sample["model"] not in models[sample["run"]]:
                    raise ResultsError(f"{path}: a sample is not whole")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise (
                error if isinstance(error, ResultsError) else ResultsError(f"{path} holds no figures")
            ) from None
        return found

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps({"runs": self.runs, "samples": self.samples}, indent=1) + "\n")
        partial.replace(path)

    def merge(self, other: Results) -> None:
        """Take in the figures of another file. Those of a run that both have are counted once."""
        self.runs.update(other.runs)
        mine = {tuple(sample[key] for key in _KEY) for sample in self.samples}
        self.samples += [s for s in other.samples if tuple(s[key] for key in _KEY) not in mine]

    def add(self, run: str, round_number: int, model: str, engine: str, case: Case, speed: float) -> None:
        values = (run, round_number, model, engine, case.kind, case.tokens, case.depth, case.streams)
        self.samples.append({**dict(zip(_KEY, values, strict=True)), "speed": speed})

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(sample["model"] for sample in self.samples))

    @property
    def peers(self) -> list[str]:
        """All that were asked for, the missing ones too."""
        return list(dict.fromkeys(name for run in self.runs.values() for name in run["peers"]))

    def cases(self, model: str) -> list[Case]:
        found = {Case(*(s[key] for key in _CASE)) for s in self.samples if s["model"] == model}
        order = ("prefill", "decode", "streams")
        return sorted(found, key=lambda c: (order.index(c.kind), c.depth, c.streams, c.tokens))

    def speeds(self, model: str, engine: str, case: Case) -> dict[tuple[str, int], float]:
        """By run and round."""
        wanted = (model, engine, case.kind, case.tokens, case.depth, case.streams)
        return {
            (s["run"], s["round"]): s["speed"]
            for s in self.samples
            if tuple(s[key] for key in _KEY[2:]) == wanted
        }

    def median(self, model: str, engine: str, case: Case) -> float | None:
        speeds = self.speeds(model, engine, case).values()
        return statistics.median(speeds) if speeds else None

    def ratios(self, model: str, peer: str, case: Case) -> list[float]:
        """Ours over the peer's, of every round that has both."""
        ours, theirs = self.speeds(model, OURS, case), self.speeds(model, peer, case)
        return [ours[key] / theirs[key] for key in ours if key in theirs]

    def peak(self, name: str) -> float:
        """The best of all runs: "int8" and "f32" operations, "bandwidth" bytes a second. Raises KeyError."""
        return max(float(run["peaks"][name]) for run in self.runs.values())

    def about(self, model: str) -> dict[str, Any]:
        """What the last run that knows the model says of it. Raises KeyError."""
        for run in reversed(self.runs.values()):
            if model in run["models"]:
                found: dict[str, Any] = run["models"][model]
                return found
        raise KeyError(model)

    def gap(self, peer: str, case: Case) -> str:
        """Why there is no figure of a peer: "missing", when its program was not there or cannot do it, or "failed"."""
        failures = (text for run in self.runs.values() for text in run["failures"])
        return "failed" if any(f"{peer}: {case.label}:" in text for text in failures) else "missing"


def merged(paths: Iterable[Path]) -> Results:
    """Raises ResultsError, OSError."""
    found = Results()
    for path in paths:
        found.merge(Results.read(path))
    return found


def tables(results: Results) -> str:
    """Where it was measured, and for each model medians and ratios, as Markdown."""
    texts = []
    for run in results.runs.values():
        peers = ", ".join(f"{name} {version or 'MISSING'}" for name, version in run["peers"].items())
        peaks = run["peaks"]
        texts.append(
            f"{run['date']}: {run['cpu']}, {run['isa']}, {run['threads']} threads; "
            f"int8 {peaks['int8'] / 1e9:.0f} GOPS, read {peaks['bandwidth'] / 1e9:.1f} GB/s; {peers}  \n"
            f"`{run['command']}`"
        )
        texts += [f"FAILED: {text}" for text in run["failures"]]
    names = [OURS, *results.peers]
    for model in results.models:
        limit = results.peak("bandwidth") / results.about(model)["token_bytes"]
        heads = [*names, *(f"ratio to {name} (least, most)" for name in names[1:])]
        lines = [
            f"{model}: tokens/s, medians; the read bandwidth allows {limit:.0f} to one stream\n",
            "| | " + " | ".join(heads) + " | rounds |",
            "| --- " * (len(heads) + 2) + "|",
        ]
        for case in results.cases(model):
            cells = [_median(results, model, name, case) for name in names]
            cells += [_ratio(results, model, name, case) for name in names[1:]]
            rounds = len(results.speeds(model, OURS, case))
            lines.append(f"| {case.label} | " + " | ".join(cells) + f" | {rounds} |")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _median(results: Results, model: str, engine: str, case: Case) -> str:
    speed = results.median(model, engine, case)
    return results.gap(engine, case) if speed is None else f"{speed:.0f}"


def _ratio(results: Results, model: str, peer: str, case: Case) -> str:
    """The median ratio to a peer over the rounds, and its spread."""
    ratios = results.ratios(model, peer, case)
    if not ratios:
        return results.gap(peer, case)
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
