"""`ollamapy create`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress

if TYPE_CHECKING:
    from ollamapy.client import Client
    from ollamapy.store.modelfile import Modelfile

_BLOCK = 1 << 20  # bytes


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


async def upload(client: Client, path: Path) -> str:
    """Put a file into the store unless it is there; returns its digest."""
    digest = file_digest(path)
    if not await client.exists(f"/api/blobs/{digest}"):
        click.echo(f"uploading {path.name}", err=True)
        await client.upload(f"/api/blobs/{digest}", _blocks(path))
    return digest


def local_file(text: str, base: Path) -> Path | None:
    """The file that a FROM line names, relative to its Modelfile; None when it names a model."""
    path = (base / Path(text).expanduser()).resolve()
    if path.is_file():
        return path
    if text.startswith((".", "/", "~")) or text.lower().endswith(".gguf"):
        raise click.ClickException(f"no such file: {text}")
    return None


def request_body(model: str, modelfile: Modelfile, quantize: str) -> dict[str, Any]:
    """The create request of a Modelfile, without its source."""
    fields = {
        "model": model,
        "quantize": quantize,
        "template": modelfile.template,
        "system": modelfile.system,
        "license": modelfile.licenses,
        "parameters": modelfile.parameters,
        "messages": modelfile.messages,
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
        "requires": modelfile.requires,
    }
    return {key: value for key, value in fields.items() if value}


@click.command(short_help="Create a model from a Modelfile")
@click.argument("model")
@click.option("-f", "--file", "path", default="Modelfile", show_default=True, help="The Modelfile.")
@click.option("-q", "--quantize", default="", help="Quantize to this type, such as q4_K_M.")
def create(model: str, path: str, quantize: str) -> None:
    """Create MODEL from a Modelfile.

    \b
    A Modelfile has a command per line:
      FROM ./model.gguf               or the name of a model in the store
      PARAMETER temperature 0.5       a default option, as often as you like
      SYSTEM You are brief.           text in three double quotes may have several lines
      TEMPLATE, MESSAGE, LICENSE      as `ollamapy show --modelfile` prints them
    """
    from ollamapy.store.modelfile import ModelfileError, parse_modelfile

    source = Path(path)
    try:
        modelfile = parse_modelfile(source.read_text("utf-8"))
    except FileNotFoundError:
        raise click.ClickException("no Modelfile or safetensors files found") from None
    except (OSError, UnicodeDecodeError, ModelfileError) as error:
        raise click.ClickException(f"{path}: {error}") from None
    if modelfile.adapters:
        raise click.ClickException("adapters are not supported")
    gguf = local_file(modelfile.from_, source.resolve().parent)

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            body = request_body(model, modelfile, quantize)
            if gguf is None:
                body["from"] = modelfile.from_
            else:
                body["files"] = {gguf.name: await upload(client, gguf)}
            await show_progress(client.stream("/api/create", body))

    run_command(work())
