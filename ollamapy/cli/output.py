"""How the commands write: model text as it is, tables, sizes, ages, and progress on standard error."""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import click

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_text(text: str, layout: Callable[[str], str] = str) -> None:
    """Model text: never markup; on a terminal also never control characters of its own, which could drive
    it."""
    if sys.stdout.isatty():
        text = _CONTROL.sub("", text)
    sys.stdout.write(layout(text))
    sys.stdout.flush()


def human_bytes(count: int) -> str:
    """Decimal units, as disk sizes are written: 98 MB, 1.2 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 and value % 1 else f"{int(value)} {unit}"
    return f"{count} B"


_LONG = ((48, 1, "hour"), (336, 24, "day"), (1440, 168, "week"), (17_520, 720, "month"))
"""below how many hours, in units of how many"""


def span(seconds: float) -> str:
    """About how long: "2 days", "About a minute"."""
    if seconds < 60:
        whole = int(seconds)
        return "Less than a second" if whole < 1 else f"{whole} second{'s' if whole > 1 else ''}"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} minutes" if minutes > 1 else "About a minute"
    hours = math.floor(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for below, unit, word in _LONG:
        if hours < below:
            return f"{hours // unit} {word}s"
    return f"{int(seconds // 3600) // 8760} years"


def moment(text: str) -> datetime.datetime:
    """An RFC 3339 time with any number of decimals; those beyond microseconds are dropped."""
    text = re.sub(r"\.(\d+)", lambda match: "." + match[1][:6].ljust(6, "0"), text.replace("Z", "+00:00"))
    return datetime.datetime.fromisoformat(text)


def ago(text: str) -> str:
    passed = datetime.datetime.now(datetime.timezone.utc) - moment(text)
    return f"{span(max(passed.total_seconds(), 0))} ago"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, four blanks apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        click.echo("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def show_progress(events: AsyncIterator[dict[str, Any]]) -> None:
    """Bars for what has a size, lines for the rest; without a terminal each status is written once."""
    if not sys.stderr.isatty():
        last = None
        async for event in events:
            if event.get("status") != last:
                last = event.get("status")
                click.echo(last, err=True)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}
        async for event in events:
            status = str(event.get("status", ""))
            if "total" in event:
                if status not in tasks:
                    tasks[status] = progress.add_task(status, total=event["total"])
                progress.update(tasks[status], completed=event.get("completed", 0), total=event["total"])
            else:
                console.print(status, markup=False, highlight=False)
