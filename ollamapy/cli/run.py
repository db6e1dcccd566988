"""`ollamapy run`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress
from ollamapy.cli.wrap import Writer

if TYPE_CHECKING:
    from ollamapy.client import Client


@dataclass
class Session:
    """What one use of `run` asks with."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    system: str | None = None  # None: the model's own
    format: Any = None
    keep_alive: Any = None
    wrap: bool = True
    verbose: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)

    def body(self, **fields: Any) -> dict[str, Any]:
        """A request with the session's settings."""
        body: dict[str, Any] = {"model": self.model, **fields}
        if self.options:
            body["options"] = self.options
        for key, value in (("format", self.format), ("keep_alive", self.keep_alive)):
            if value is not None:
                body[key] = value
        return body


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


def rates(last: dict[str, Any]) -> str:
    """Counts, durations and tokens per second of an answer."""
    lines = []
    for label, key in (("total duration", "total_duration"), ("load duration", "load_duration")):
        lines.append(f"{label + ':':<22}{last.get(key, 0) / 1e9:.3f} s")
    for label, count_key, time_key in (
        ("prompt eval", "prompt_eval_count", "prompt_eval_duration"),
        ("eval", "eval_count", "eval_duration"),
    ):
        count, seconds = last.get(count_key, 0), last.get(time_key, 0) / 1e9
        lines.append(f"{label + ' count:':<22}{count} tokens")
        lines.append(f"{label + ' duration:':<22}{seconds:.3f} s")
        if seconds:
            lines.append(f"{label + ' rate:':<22}{count / seconds:.2f} tokens/s")
    return "\n".join(lines)


async def answer(
    client: Client, session: Session, path: str, body: dict[str, Any], texts: list[str] | None = None
) -> None:
    """Ask and print the answer as it comes; texts gets its pieces, also when it breaks off."""
    writer = Writer(session.wrap)
    last: dict[str, Any] = {}
    try:
        async for event in client.stream(path, body):
            text = event["message"]["content"] if "message" in event else event.get("response", "")
            if texts is not None:
                texts.append(text)
            writer.write(text)
            last = event
    finally:
        writer.write("\n")
    if session.verbose:
        click.echo(f"\n{rates(last)}", err=True)


async def embed(client: Client, session: Session, text: str, dimensions: int, truncate: bool) -> None:
    body = session.body(input=text, truncate=truncate)
    if dimensions:
        body["dimensions"] = dimensions
    click.echo(json.dumps((await client.call("POST", "/api/embed", body))["embeddings"][0]))


@click.command(short_help="Ask a model")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--format", "form", default=None, help='"json", or a JSON schema.')
@click.option(
    "--keepalive", default=None, help="How long the model stays in memory afterwards: 5m, -1 for ever."
)
@click.option("--nowordwrap", is_flag=True, help="Do not break lines at the terminal's width.")
@click.option("--verbose", is_flag=True, help="Show counts and rates after the answer.")
@click.option("--dimensions", type=int, default=0, help="Embedding models: cut the vector.")
@click.option("--truncate/--no-truncate", default=True, help="Embedding models: cut a text that is too long.")
def run(
    model: str,
    prompt: tuple[str, ...],
    form: str | None,
    keepalive: str | None,
    nowordwrap: bool,
    verbose: bool,
    dimensions: int,
    truncate: bool,
) -> None:
    """Ask MODEL and print its answer as it is written.

    The PROMPT is the arguments, standard input, or both; without either a conversation begins. A model pack
    that is not in the store is fetched first, and a server is started in the background where none listens.

    \b
      ollamapy run smollm2:135m "Why is the sky blue?"
      ollamapy run smollm2:135m "Summarize this:" < letter.txt
      ollamapy run smollm2:135m
    """
    parts = [" ".join(prompt)] if prompt else []
    if not sys.stdin.isatty():
        parts.append(sys.stdin.read())
    text = "\n".join(part for part in parts if part.strip())
    if not text and not sys.stdin.isatty():
        raise click.UsageError("what shall I ask? Give a PROMPT, or pipe one in.")
    session = Session(model, wrap=not nowordwrap, verbose=verbose, keep_alive=_keep_alive(keepalive))
    if form is not None:
        session.format = _format(form)

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await ensure_model(client, model)
            info = await client.call("POST", "/api/show", {"model": model})
            if "embedding" in info.get("capabilities", []):
                if not text:
                    raise click.ClickException("an embedding model needs a PROMPT")
                await embed(client, session, text, dimensions, truncate)
            elif text:
                await answer(client, session, "/api/generate", session.body(prompt=text))
            else:
                from ollamapy.cli.chat import converse

                session.messages = list(info.get("messages") or [])
                await converse(client, session)

    run_command(work())


def _keep_alive(text: str | None) -> Any:
    """A number of seconds or a duration."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _format(text: str) -> Any:
    if text in ("", "json"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise click.UsageError("--format is json or a JSON schema") from None
