"""`ollamapy create`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.command import Command
from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress
from ollamapy.store.blobs import file_digest
from ollamapy.store.errors import InvalidNameError
from ollamapy.store.modelfile import Modelfile, ModelfileError, parse_modelfile
from ollamapy.store.names import ModelName
from ollamapy.store.parameters import DEPRECATED, ParameterError, parse_parameter

if TYPE_CHECKING:
    from ollamapy.client import Client

_BLOCK = 1 << 20  # bytes
_FILE_FIELDS = {"from": "files", "adapter": "adapters", "draft": "draft_files"}
# The first of these that a folder has are its weights.
_WEIGHTS = (
    ("model*.safetensors", "*/model*.safetensors"),
    ("consolidated*.safetensors",),
    ("adapter*.safetensors",),
    ("*.gguf",),
)
_SETTINGS = ("*.json", "*/*.json", "chat_template.jinja", "tokenizer.model", "vocab.txt")
_SEMVER = re.compile(r"\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


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


def _globbed(folder: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that make a model: weights, settings, tokenizer.

    Raises ClickException for a folder without weights, and for a link that leads out of it.
    """
    weights = [_globbed(folder, *patterns) for patterns in _WEIGHTS]
    chosen = next(filter(None, weights), None)
    if chosen is None:
        raise click.ClickException("no Modelfile or safetensors files found")
    files = chosen + _globbed(folder, *_SETTINGS)
    root = folder.resolve()
    for path in files:
        if not path.resolve().is_relative_to(root):
            hint = "\n\nUse --local-dir <dir> when downloading model to disable caching"
            raise click.ClickException(
                f"insecure path: {path}{hint if '.cache' in str(path.resolve()) else ''}"
            )
    return files


def local_files(text: str, base: Path) -> dict[str, Path] | None:
    """The files that a FROM or ADAPTER line names, relative to its Modelfile, by the names they are sent under.

    None when there is no such file or folder. Raises ClickException.
    """
    path = (base / Path(text).expanduser()).resolve()
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file for file in model_files(path)}
    return {path.name: path} if path.is_file() else None


def request_files(modelfile: Modelfile, base: Path) -> tuple[str, dict[str, dict[str, Path]]]:
    """The model that FROM names, "" when it names files, and all files by the field of the request.

    Raises ClickException.
    """
    name = ""
    fields: dict[str, dict[str, Path]] = {}
    for command in modelfile.commands:
        field = _FILE_FIELDS.get(command.name)
        if field is None:
            continue
        found = local_files(command.value, base)
        if found is not None:
            fields.setdefault(field, {}).update(found)
        elif command.name == "from" and not _looks_local(command.value):
            name = command.value
        else:
            raise click.ClickException(f"no such file: {command.value}")
    return name, fields


def _looks_local(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.lower().endswith(".gguf")


def request_body(model: str, modelfile: Modelfile) -> dict[str, Any]:
    """The create request of a Modelfile, without its files. Raises ClickException."""
    parameters: dict[str, Any] = {}
    for name, word in modelfile.pairs("parameter"):
        if name in DEPRECATED:
            click.echo(f"warning: parameter {name} is deprecated", err=True)
            continue
        value = parse_parameter(name, [word])
        parameters[name] = parameters.get(name, []) + value if isinstance(value, list) else value
    fields = {
        "model": model,
        "template": modelfile.last("template"),
        "system": modelfile.last("system"),
        "license": modelfile.values("license"),
        "parameters": parameters,
        "messages": [{"role": role, "content": text} for role, text in modelfile.pairs("message")],
        "renderer": modelfile.last("renderer"),
        "parser": modelfile.last("parser"),
        "requires": _version(modelfile.last("requires")),
    }
    return {key: value for key, value in fields.items() if value}


def _version(text: str) -> str:
    if text and not _SEMVER.fullmatch(text.removeprefix("v")):
        raise click.ClickException("requires must be a valid semver (e.g. 0.14.0)")
    return text.removeprefix("v")


def _read_modelfile(path: str | None) -> tuple[Modelfile, Path]:
    """A Modelfile and the folder that its paths are relative to. Raises ClickException."""
    source = Path(path or "Modelfile")
    try:
        return parse_modelfile(source.read_bytes()), source.resolve().parent
    except FileNotFoundError:
        if path:
            raise click.ClickException("specified Modelfile wasn't found") from None
        return parse_modelfile("FROM ."), Path.cwd()
    except OSError as error:
        raise click.ClickException(f"{source}: {error.strerror}") from None
    except ModelfileError as error:
        raise click.ClickException(str(error)) from None


@click.command(cls=Command, short_help="Create a model from a Modelfile")
@click.argument("model")
@click.option("-f", "--file", "path", default=None, help="The Modelfile.  [default: Modelfile]")
@click.option("-q", "--quantize", default="", help="Quantize to this type, such as q4_K_M.")
@click.option("--draft-quantize", default="", help="Quantize the DRAFT model to this type.")
def create(model: str, path: str | None, quantize: str, draft_quantize: str) -> None:
    """Create MODEL from a Modelfile, or from the safetensors of this folder where there is no Modelfile.

    \b
    A Modelfile has a command per line:
      FROM ./model.gguf               a GGUF, a folder with safetensors, or a model of the store
      PARAMETER temperature 0.5       a default option, as often as you like
      SYSTEM You are brief.           text in three double quotes may have several lines
      ADAPTER ./lora.gguf             a LoRA for the model
      TEMPLATE, MESSAGE, LICENSE, RENDERER, PARSER, REQUIRES
                                      as `ollamapy show --modelfile` prints them
    """
    try:
        ModelName.parse(model)
    except InvalidNameError:
        raise click.ClickException(f"invalid model name: {model}") from None
    modelfile, base = _read_modelfile(path)
    try:
        body = request_body(model, modelfile)
    except ParameterError as error:
        raise click.ClickException(str(error)) from None
    source, fields = request_files(modelfile, base)
    if draft_quantize and "draft_files" not in fields:
        raise click.ClickException("--draft-quantize requires a DRAFT model")
    body |= {k: v for k, v in (("quantize", quantize), ("draft_quantize", draft_quantize)) if v}

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            if source:
                body["from"] = source
            for field, files in fields.items():
                body[field] = {name: await upload(client, path) for name, path in files.items()}
            await show_progress(client.stream("/api/create", body))

    run_command(work())
