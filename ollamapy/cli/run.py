"""`ollamapy run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress, write_text

if TYPE_CHECKING:
    from ollamapy.client import Client


async def ensure_model(client: Client, model: str) -> None:
    """Pull a model that the store does not have."""
    from ollamapy.store.names import PACK_HOST, ModelName

    wanted = ModelName.parse(model).folded
    models = (await client.call("GET", "/api/tags"))["models"]
    if any(ModelName.parse(entry["name"]).folded == wanted for entry in models):
        return
    if wanted.host != PACK_HOST:
        raise click.ClickException(f"model '{model}' not found")
    await show_progress(client.stream("/api/pull", {"model": model}))


@click.command(short_help="Ask a model")
@click.argument("model")
@click.argument("prompt", nargs=-1)
def run(model: str, prompt: tuple[str, ...]) -> None:
    """Ask MODEL and print its answer as it is written.

    The PROMPT is the arguments, standard input, or both. A model pack that is not in the store is fetched
    first, and a server is started in the background where none listens.
    """
    parts = [" ".join(prompt)] if prompt else []
    if not sys.stdin.isatty():
        parts.append(sys.stdin.read())
    text = "\n".join(part for part in parts if part.strip())
    if not text:
        raise click.UsageError("what shall I ask? Give a PROMPT, or pipe one in.")

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await ensure_model(client, model)
            async for event in client.stream("/api/generate", {"model": model, "prompt": text}):
                write_text(event.get("response", ""))
            write_text("\n")

    run_command(work())
