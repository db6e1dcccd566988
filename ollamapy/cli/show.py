"""`ollamapy show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ollamapy.cli.command import Command
from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.store.parameters import float_text

_PARTS = ("license", "modelfile", "parameters", "system", "template")
_MARGIN = "    "
_WRAPPED_MARGIN = "      "  # before what is left of a wrapped cell
_LINES = 2  # of a system text or a license
_CELL_WIDTH = 30  # columns from which the text of a cell is wrapped
_TEXT_WIDTH = 100  # the same for a system text or a license
_LIST_WIDTH = 10  # columns
_MOST_WORDS = 2000  # of a cell that is wrapped


def section(title: str, rows: Sequence[Sequence[str]], width: int = _CELL_WIDTH) -> str:
    """A heading and aligned rows below it, whose cells are wrapped at width."""
    cells = [[wrapped(cell, width) for cell in row] for row in rows]
    columns = range(max(map(len, cells)))
    widths = [
        max(_width(row[i], rows[n][i], width) for n, row in enumerate(cells) if i < len(row)) for i in columns
    ]
    lines = [f"  {title}"]
    for row in cells:
        for i in range(max(map(len, row))):
            line = (
                (cell[i] if i < len(cell) else "").ljust(columns)
                for cell, columns in zip(row, widths, strict=False)
            )
            lines.append((_MARGIN if i == 0 else _WRAPPED_MARGIN) + "    ".join(line).rstrip())
    return "\n".join(lines) + "\n"


def _width(lines: list[str], text: str, width: int) -> int:
    """The columns of a cell: those of its text as far as they are granted, or of its longest word."""
    return max(min(len(text), width), *map(len, lines))


def wrapped(text: str, width: int) -> list[str]:
    """Lines of a text that are as even as they can be: the sum of the squares of what they leave free is the least."""
    words = text.split(" ")
    if len(text) <= width or len(words) == 1 or len(words) > _MOST_WORDS:
        return [text]
    limit = max(width, *map(len, words))
    count = len(words)
    costs, breaks = [0] * (count + 1), [count] * (count + 1)
    for start in range(count - 1, -1, -1):
        length, best = -1, -1
        for end in range(start + 1, count + 1):
            length += 1 + len(words[end - 1])
            if length > limit:
                break
            if end == count:
                best, breaks[start] = 0, count
                break
            cost = (limit - length) ** 2 + costs[end]
            if best < 0 or cost < best:
                best, breaks[start] = cost, end
        costs[start] = best
    lines, start = [], 0
    while start < count:
        lines.append(" ".join(words[start : breaks[start]]))
        start = breaks[start]
    return lines


def describe(info: dict[str, Any], verbose: bool) -> str:
    """The sections about a model."""
    details, metadata = info["details"], info["model_info"]
    architecture = metadata.get("general.architecture", details["family"])
    rows = [("architecture", architecture), ("parameters", details["parameter_size"])]
    for words in ("context length", "embedding length"):
        value = metadata.get(f"{architecture}.{words.replace(' ', '_')}")
        if value is not None:
            rows.append((words, str(value)))
    rows.append(("quantization", details["quantization_level"]))
    if info.get("requires"):
        rows.append(("requires", info["requires"]))
    if info.get("remote_host"):
        rows[:0] = [("Remote model", info.get("remote_model", "")), ("Remote URL", info["remote_host"])]
    parts = [section("Model", rows)]
    if info.get("capabilities"):
        parts.append(section("Capabilities", [(name,) for name in info["capabilities"]]))
    if info.get("parameters"):
        lines = [line for line in info["parameters"].splitlines() if line]
        parts.append(section("Parameters", [line.split() for line in lines]))
    if verbose:
        parts.append(section("Metadata", [(key, _brief(metadata[key])) for key in sorted(metadata)]))
        if info.get("tensors"):
            tensors = [(t["name"], t["type"], _list(t["shape"])) for t in info["tensors"]]
            parts.append(section("Tensors", tensors))
    for title in ("System", "License"):
        if info.get(title.lower()):
            parts.append(section(title, _beginning(info[title.lower()]), _TEXT_WIDTH))
    return "\n".join(parts) + "\n"


def _beginning(text: str) -> list[tuple[str]]:
    """The first lines of a text, and dots for the rest."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line,) for line in lines[:_LINES] + ["..."] * (len(lines) > _LINES)]


def _brief(value: Any) -> str:
    """A value of the metadata; of a list as many items as fit, the first in any case."""
    if not isinstance(value, list):
        return _number(value)
    shown, width = 0, 1
    for item in value:
        width += len(_number(item)) + (2 if shown else 0)
        if width > _LIST_WIDTH and shown:
            break
        shown += 1
    rest = len(value) - shown
    return _list(value) if not rest else f"{_list(value[:shown])[:-1]} ...+{rest} more]"


def _list(items: Sequence[Any]) -> str:
    return f"[{' '.join(map(_number, items))}]"


def _number(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else float_text(float(value))


@click.command(cls=Command, short_help="Show what is known of a model")
@click.argument("model")
@click.option("--license", is_flag=True, help="Only the license.")
@click.option("--modelfile", is_flag=True, help="Only the Modelfile.")
@click.option("--parameters", is_flag=True, help="Only the parameters.")
@click.option("--system", is_flag=True, help="Only the system text.")
@click.option("--template", is_flag=True, help="Only the template.")
@click.option("-v", "--verbose", is_flag=True, help="All metadata and tensors.")
def show(model: str, verbose: bool, **parts: bool) -> None:
    """Show what MODEL is, can do and is made of."""
    asked = [part for part in _PARTS if parts[part]]
    if len(asked) > 1:
        raise click.ClickException(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )

    async def work() -> dict[str, Any]:
        async with new_client() as client:
            await ensure_server(client)
            body = {"model": model, "verbose": verbose}
            answer: dict[str, Any] = await client.call("POST", "/api/show", body)
            return answer

    info = run_command(work())
    if asked:
        # a system text and a template are written as they are, so that they can be kept in a file
        click.echo(info.get(asked[0], ""), nl=asked[0] not in ("system", "template"))
    else:
        click.echo(describe(info, verbose), nl=False)
