"""Commands about the models of the store."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.command import Command
from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import ago, human_bytes, moment, print_table, span

if TYPE_CHECKING:
    from ollamapy.client import Client


async def list_models(client: Client, prefix: str) -> None:
    """Print the models of the store as a table. Raises ClientError."""
    models = (await client.call("GET", "/api/tags"))["models"]
    rows = [
        (m["name"], m["digest"][:12], _size(m), ago(m["modified_at"]))
        for m in models
        if m["name"].lower().startswith(prefix.lower())
    ]
    print_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def _size(model: dict[str, Any]) -> str:
    """The bytes of a model, "-" for one that another server has."""
    return "-" if model.get("remote_host") else human_bytes(model["size"])


@click.command(cls=Command, name="list", short_help="List the models of the store")
@click.argument("words", nargs=-1, metavar="[PREFIX]")
def list_command(words: tuple[str, ...]) -> None:
    """List the models of the store, those whose name begins with PREFIX."""

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await list_models(client, "".join(words[:1]))

    run_command(work())


def _until(expires: str) -> str:
    """When a model leaves memory, in words."""
    at = moment(expires)
    left = (at - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    if at.year > 2200:
        return "Forever"
    return f"{span(left)} from now" if left > 0 else "Stopping..."


@click.command(cls=Command, short_help="List the models in memory")
@click.argument("words", nargs=-1, metavar="[PREFIX]")
def ps(words: tuple[str, ...]) -> None:
    """List the models in memory, those whose name begins with PREFIX: where they run and until when they stay."""

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            models = (await client.call("GET", "/api/ps"))["models"]
        rows = [
            (
                m["name"],
                m["digest"][:12],
                human_bytes(m["size"]),
                _processor(m["size"], m["size_vram"]),
                str(m["context_length"]),
                _until(m["expires_at"]),
            )
            for m in models
            if m["name"].startswith("".join(words[:1]))
        ]
        print_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)

    run_command(work())


def _processor(size: int, on_gpu: int) -> str:
    if on_gpu <= 0:
        return "100% CPU"
    share = round(100 * on_gpu / max(size, 1))
    return "100% GPU" if share >= 100 else f"{100 - share}%/{share}% CPU/GPU"


@click.command(cls=Command, short_help="Take a model out of memory")
@click.argument("model")
def stop(model: str) -> None:
    """Take MODEL out of memory as soon as nobody uses it."""

    async def work() -> None:
        async with new_client() as client:
            try:
                await client.call("POST", "/api/generate", {"model": model, "keep_alive": 0})
            except ClientError as error:
                if error.status == 404:
                    raise click.ClickException(f'couldn\'t find model "{model}" to stop') from None
                raise

    from ollamapy.client import ClientError

    run_command(work())


@click.command(cls=Command, short_help="Copy a model")
@click.argument("source")
@click.argument("destination")
def cp(source: str, destination: str) -> None:
    """Give the model SOURCE a second name, DESTINATION. Nothing is stored twice."""

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await client.call("POST", "/api/copy", {"source": source, "destination": destination})

    run_command(work())
    click.echo(f"copied '{source}' to '{destination}'")


@click.command(cls=Command, short_help="Remove models from the store")
@click.argument("models", nargs=-1, required=True)
def rm(models: tuple[str, ...]) -> None:
    """Remove MODELS from the store, and what no other model is made of from the disk."""

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            for model in models:
                await client.call("DELETE", "/api/delete", {"model": model})
                click.echo(f"deleted '{model}'")

    run_command(work())
