"""What each kind of operation of a step costs, beside what the machine could do at most."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollamapy._core import Instruction
from ollamapy.engine.bench import CHUNK, Bench, Work, read_bandwidth, work_of

_REPEAT = {True: 20, False: 3}  # steps measured, of few rows and of many
_NOISE = re.compile(r"\([^)]*\)|\S*->\S+|\bfeeds\b|\[\w+\]")  # buffers and row counts in a line of a program
_LAYER = re.compile(r"^blk\.\d+\.")


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches when it does one thing only: operations and bytes per second of all threads."""

    int8: float
    f32: float
    bandwidth: float


def measure_peaks(bench: Bench) -> Peaks:
    device = bench.device
    return Peaks(device.measure_peak("int8"), device.measure_peak("f32"), read_bandwidth(device.threads))


@dataclass(frozen=True)
class Line:
    """One kind of operation, all layers together."""

    name: str
    seconds: float  # a step
    share: float  # of the step
    peak_share: float | None  # of the peak of its operations; None: no products
    bandwidth_share: float | None  # weights as packed, over its time, of the read bandwidth


def label(instruction: Instruction) -> str:
    """What the instruction does, without layers and buffers: 'matmul ffn_gate:Q4_1+ffn_up:Q4_1'."""
    if instruction.op == "matmul":
        weights = (
            f"{_LAYER.sub('', name).removesuffix('.weight')}:{kind}" for name, kind, *_ in instruction.weights
        )
        return "matmul " + "+".join(weights)
    if instruction.op == "rows":
        return " ".join(_NOISE.sub("", instruction.text).split())
    return instruction.op


def summarize(
    instructions: Sequence[Instruction], seconds: Sequence[float], rows: int, outputs: int, peaks: Peaks
) -> list[Line]:
    """The lines of a step with so many rows, of which so many are sampled, the longest first."""
    taken: dict[str, float] = defaultdict(float)
    works: dict[str, list[Work]] = {}
    for instruction, duration in zip(instructions, seconds, strict=True):
        name = label(instruction)
        taken[name] += duration
        works.setdefault(name, []).append(work_of(instruction, rows, outputs))
    total = sum(seconds)
    return [
        Line(name, time, time / total if total else 0.0, *_shares(works[name], time, peaks))
        for name, time in sorted(taken.items(), key=lambda item: -item[1])
    ]


def _shares(works: Iterable[Work], seconds: float, peaks: Peaks) -> tuple[float | None, float | None]:
    """The least time that the products could take, by their operations and by their bytes, over the time taken."""
    computing = sum(work.int8_operations / peaks.int8 + work.f32_operations / peaks.f32 for work in works)
    reading = sum(work.nbytes for work in works) / peaks.bandwidth
    if not reading or not seconds:
        return None, None
    return computing / seconds, reading / seconds


@dataclass(frozen=True)
class Profile:
    """A step with `rows` new tokens of each of `streams`."""

    rows: int
    streams: int
    lines: list[Line]

    @property
    def seconds(self) -> float:
        return sum(line.seconds for line in self.lines)

    @property
    def title(self) -> str:
        what = f"prefill of {self.rows} tokens" if self.rows > 1 else f"decode, {self.streams} streams"
        return "decode, 1 stream" if (self.rows, self.streams) == (1, 1) else what


def profile(bench: Bench, prefill: Iterable[int], streams: Iterable[int], peaks: Peaks) -> list[Profile]:
    """A decoding step of one stream and of each of streams, and a step of each prompt, of one chunk at most."""
    shapes = [(1, count) for count in dict.fromkeys((1, *streams))]
    shapes += [(rows, 1) for rows in dict.fromkeys(min(rows, CHUNK) for rows in prefill) if rows > 1]
    found = []
    for rows, count in shapes:
        repeat = _repeat(bench, rows)
        seconds = bench.profile(rows, count, repeat)
        lines = summarize(bench.instructions, seconds, rows * count, count, peaks)
        found.append(Profile(rows, count, lines))
    return found


def _repeat(bench: Bench, rows: int) -> int:
    """Steps to measure: they and one before them have to fit in the context."""
    return max(min(_REPEAT[rows == 1], bench.context_length // rows - 1), 1)


def table(profiles: Iterable[Profile], peaks: Peaks) -> str:
    """The profiles as text, with a percent sign for each share; a dash: it multiplies no weights."""
    texts = [
        f"peaks measured: int8 {peaks.int8 / 1e9:.0f} GOPS, f32 {peaks.f32 / 1e9:.0f} GFLOPS, "
        f"read {peaks.bandwidth / 1e9:.1f} GB/s"
    ]
    for each in profiles:
        texts.append(f"\n{each.title}: {each.seconds * 1e3:.3f} ms a step")
        texts.append(f"  {'ms':>9}  {'step':>6}  {'peak':>6}  {'read':>6}")
        for line in each.lines:
            cells = (line.share, line.peak_share, line.bandwidth_share)
            shares = "  ".join("     -" if cell is None else f"{100 * cell:4.0f} %" for cell in cells)
            texts.append(f"  {line.seconds * 1e3:9.3f}  {shares}  {line.name}")
    return "\n".join(texts)
