"""The figures of docs/performance.md, drawn from results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ollamapy.engine.bench import Case

from .results import OURS, Results
from .svg import COLORS, Panel, Point, Series, chart

SPEED = "tokens per second"


def write_plots(results: Results, folder: Path) -> list[Path]:
    """Every plot that the results have figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "prefill.svg": by_prompt(results),
        "depth.svg": by_depth(results),
        "streams.svg": by_streams(results),
        "roofline.svg": roofline(results),
    }
    written = []
    for name, text in plots.items():
        if text is not None:
            (folder / name).write_text(text)
            written.append(folder / name)
    return written


def by_prompt(results: Results) -> str | None:
    return _by("Prefill by prompt length", "tokens of the prompt", results, _prompt, log=True)


def by_depth(results: Results) -> str | None:
    return _by("Decoding by depth", "tokens before those decoded", results, _depth)


def by_streams(results: Results) -> str | None:
    return _by("Streams together", "streams", results, _streams)


def _prompt(case: Case) -> int | None:
    return case.tokens if case.kind == "prefill" else None


def _depth(case: Case) -> int | None:
    return case.depth if case.kind == "decode" else None


def _streams(case: Case) -> int | None:
    """One stream is the decoding of its own, behind no prompt."""
    alone = 1 if case.kind == "decode" and not case.depth else None
    return case.streams if case.kind == "streams" else alone


def _by(
    title: str, x_label: str, results: Results, place: Callable[[Case], int | None], log: bool = False
) -> str | None:
    """One panel a model, one line an engine; None without a figure."""
    panels = []
    for model in results.models:
        placed = {case: at for case in results.cases(model) if (at := place(case)) is not None}
        if not placed:
            continue
        lines = []
        for engine, color in zip((OURS, *results.peers), COLORS, strict=False):
            points = []
            for case, at in sorted(placed.items(), key=lambda item: item[1]):
                speeds = results.speeds(model, engine, case).values()
                median = results.median(model, engine, case)
                if median is not None:
                    points.append(Point(at, median, min(speeds), max(speeds)))
            lines.append(Series(engine if points else f"{engine} (missing)", points, color))
        panels.append(Panel(model, x_label, SPEED, lines, x_log=log, x_ticks=sorted(set(placed.values()))))
    return chart(title, panels) if panels else None


ROOFLINE = {  # the steps whose work the results know, and what was measured of them
    "decode": lambda case: case.kind == "decode" and not case.depth,
    "8 streams": lambda case: case.kind == "streams" and case.streams == 8,
    "16 streams": lambda case: case.kind == "streams" and case.streams == 16,
    "prefill 512": lambda case: case.kind == "prefill" and case.tokens == 512,
}


def roofline(results: Results) -> str | None:
    """Our operations a second over operations per byte of weights, below what the machine can do at most."""
    panels = []
    for model in results.models:
        work = results.about(model)["work"]
        points = []
        for name, wanted in ROOFLINE.items():
            for case in filter(wanted, results.cases(model)):
                median = results.median(model, OURS, case)
                if median is not None:
                    step = work[name]
                    achieved = median * step["operations"] / step["rows"]
                    points.append(Point(step["operations"] / step["bytes"], achieved / 1e9, label=name))
        if points:
            ours = Series(OURS, points, COLORS[0], line=False)
            panels.append(
                Panel(
                    model,
                    "operations per byte of weights",
                    "billions of operations per second",
                    [_limits(results, points), ours],
                    x_log=True,
                    y_log=True,
                )
            )
    return chart("Roofline", panels) if panels else None


def _limits(results: Results, points: list[Point]) -> Series:
    """The roof: reading bounds what uses a byte seldom, computing what uses it often."""
    peak, bandwidth = results.peak("int8"), results.peak("bandwidth")
    ridge = peak / bandwidth
    low, high = min(*(p.x for p in points), ridge) / 2, max(*(p.x for p in points), ridge) * 4
    roof = [Point(low, low * bandwidth / 1e9), Point(ridge, peak / 1e9), Point(high, peak / 1e9)]
    name = f"limits: read {bandwidth / 1e9:.1f} GB/s, int8 {peak / 1e9:,.0f} GOPS"
    return Series(name, roof, "#666666", marks=False)
