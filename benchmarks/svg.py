"""Line charts as SVG: panels side by side, axes linear or logarithmic, every point a marked circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 440, 330  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 62, 52  # its margins
FONT = "font-family='Helvetica, Arial, sans-serif'"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by the colour-blind too
MARKS = 6  # of an axis, at most about so many


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float | None = None  # the spread, drawn as a bar
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    color: str
    line: bool = True  # joined
    marks: bool = True  # with circles


@dataclass(frozen=True)
class Axis:
    """Values from low to high on pixels from start to end."""

    label: str
    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False
    x_ticks: Sequence[float] = field(default=())  # empty: chosen

    def axes(self) -> tuple[Axis, Axis]:
        points = [point for series in self.series for point in series.points]
        xs = [point.x for point in points]
        ys = [v for point in points for v in (point.y, point.low, point.high) if v is not None]
        x_low, x_high = _range(xs, self.x_log, upright=False)
        y_low, y_high = _range(ys, self.y_log, upright=True)
        x_ticks = self.x_ticks or _ticks(x_low, x_high, self.x_log)
        return (
            Axis(self.x_label, x_low, x_high, LEFT, WIDTH - RIGHT, self.x_log, x_ticks),
            Axis(
                self.y_label,
                y_low,
                y_high,
                HEIGHT - BOTTOM,
                TOP,
                self.y_log,
                _ticks(y_low, y_high, self.y_log),
            ),
        )


def _range(values: Sequence[float], log: bool, upright: bool) -> tuple[float, float]:
    """The ends of an axis with some room beyond the values; an upright linear one begins at 0."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        room = 2.0 if upright else 1.4
        return low / room, high * room
    space = 0.08 * ((high if upright else high - low) or 1.0)
    return 0.0 if upright else low - space, high + space


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
    rough = (high - low) / MARKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def chart(title: str, panels: Sequence[Panel]) -> str:
    """The document. What the series of all panels are called stands once, in the top line."""
    width = WIDTH * len(panels)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{HEIGHT}' "
        f"viewBox='0 0 {width} {HEIGHT}' role='img' aria-label={quoteattr(title)}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{HEIGHT}' fill='#ffffff'/>",
    ]
    names = dict.fromkeys((s.name, s.color) for panel in panels for s in panel.series)
    at = 14.0
    for name, color in names:
        parts.append(f"<rect x='{at:.1f}' y='10' width='14' height='8' fill='{color}'/>")
        parts.append(_text(at + 19, 18, name))
        at += 34 + 6.6 * len(name)
    for index, panel in enumerate(panels):
        parts.append(f"<g transform='translate({WIDTH * index} 0)'>")
        parts += _panel(panel)
        parts.append("</g>")
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, extra: str = "") -> str:
    at = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}'"
    return f"<text {at} {FONT} fill='#222222'{extra}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{color}' stroke-width='{width}'/>"


def _panel(panel: Panel) -> list[str]:
    x, y = panel.axes()
    middle = (y.start + y.end) / 2
    parts = [_text(LEFT, 46, panel.title, size=14, extra=" font-weight='bold'")]
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(_line(x.start, at, x.end, at, "#dddddd"))
        parts.append(_text(x.start - 7, at + 4, number(tick), "end", 11))
    for tick in x.ticks:
        at = x.place(tick)
        parts.append(_line(at, y.start, at, y.start + 4, "#666666"))
        parts.append(_text(at, y.start + 17, number(tick), "middle", 11))
    parts.append(_line(x.start, y.start, x.end, y.start, "#666666"))
    parts.append(_line(x.start, y.start, x.start, y.end, "#666666"))
    parts.append(_text((x.start + x.end) / 2, HEIGHT - 14, x.label, "middle"))
    turned = f" transform='rotate(-90 16 {middle:.1f})'"
    parts.append(_text(16, middle, y.label, "middle", extra=turned))
    for series in panel.series:
        parts += _series(series, x, y)
    return parts


def _series(series: Series, x: Axis, y: Axis) -> list[str]:
    parts = []
    if series.line and len(series.points) > 1:
        path = " ".join(f"{x.place(p.x):.1f},{y.place(p.y):.1f}" for p in series.points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{series.color}' stroke-width='2'/>")
    for index, point in enumerate(series.points):
        across, up = x.place(point.x), y.place(point.y)
        if point.low is not None and point.high is not None:
            parts.append(_line(across, y.place(point.low), across, y.place(point.high), series.color, 1.5))
        if series.marks:
            circle = f"<circle cx='{across:.1f}' cy='{up:.1f}' r='4' fill='{series.color}'>"
            hint = f"{series.name}: {number(point.x)}, {number(point.y)}"
            parts.append(f"{circle}<title>{escape(hint)}</title></circle>")
        if point.label:
            below = index % 2 == 0  # so that neighbours' labels do not meet
            parts.append(_text(across + 8, up + (14 if below else -8), point.label, size=11))
    return parts
