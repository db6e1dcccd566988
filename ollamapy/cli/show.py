"""`ollamapy show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command

_PARTS = ("license", "modelfile", "parameters", "system", "template")
_LICENSE_LINES = 2


def section(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A heading and aligned rows below it."""
    widths = [max(len(row[i]) for row in rows) for i in range(max(map(len, rows)))]
    lines = [f"  {title}"]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append("    " + "    ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


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
        parts.append(section("Parameters", [line.split(None, 1) for line in info["parameters"].splitlines()]))
    if info.get("system"):
        parts.append(section("System", [(line,) for line in info["system"].splitlines()]))
    if info.get("license"):
        lines = [line.strip() for line in info["license"].splitlines() if line.strip()]
        shown = (
            lines if verbose else [*lines[:_LICENSE_LINES], *(["..."] if len(lines) > _LICENSE_LINES else [])]
        )
        parts.append(section("License", [(line,) for line in shown]))
    if verbose:
        parts.append(section("Metadata", [(key, _brief(value)) for key, value in metadata.items()]))
        tensors = [(t["name"], t["type"], str(t["shape"])) for t in info.get("tensors", [])]
        if tensors:
            parts.append(section("Tensors", tensors))
    return "\n".join(parts)


def _brief(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:3])
        return f"[{shown}{', ...' if len(value) > 3 else ''}] ({len(value)})"
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command(short_help="Show what is known of a model")
@click.argument("model")
@click.option("--license", "part", flag_value="license", help="Only the license.")
@click.option("--modelfile", "part", flag_value="modelfile", help="Only the Modelfile.")
@click.option("--parameters", "part", flag_value="parameters", help="Only the parameters.")
@click.option("--system", "part", flag_value="system", help="Only the system text.")
@click.option("--template", "part", flag_value="template", help="Only the template.")
@click.option("-v", "--verbose", is_flag=True, help="All metadata and tensors.")
def show(model: str, part: str | None, verbose: bool) -> None:
    """Show what MODEL is, can do and is made of."""

    async def work() -> dict[str, Any]:
        async with new_client() as client:
            await ensure_server(client)
            body = {"model": model, "verbose": verbose}
            answer: dict[str, Any] = await client.call("POST", "/api/show", body)
            return answer

    info = run_command(work())
    click.echo(info.get(part, "") if part in _PARTS else describe(info, verbose))
