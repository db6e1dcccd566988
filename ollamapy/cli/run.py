"""`ollamapy run`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.command import BareOption, Command
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
    think: Any = None  # None: the request does not say
    think_said: bool = False  # by the user
    hide_thinking: bool = False
    wrap: bool = True
    verbose: bool = False
    sees: bool = False  # whether the model takes images
    messages: list[dict[str, Any]] = field(default_factory=list)
    loaded_messages: list[dict[str, Any]] = field(
        default_factory=list
    )  # the model's own, which the server adds

    def use(self, model: str, info: dict[str, Any]) -> None:
        """Ask this model from now on; info is what `show` says of it. It thinks if it can, unless the user has said."""
        capabilities = info.get("capabilities", [])
        self.model = model
        self.sees = "vision" in capabilities
        self.loaded_messages = list(info.get("messages") or [])
        if not self.think_said:
            self.think = True if "thinking" in capabilities else None

    def body(self, **fields: Any) -> dict[str, Any]:
        """A request with the session's settings."""
        body: dict[str, Any] = {"model": self.model, **fields}
        if self.options:
            body["options"] = self.options
        given = {"format": self.format, "keep_alive": self.keep_alive, "think": self.think}
        for key, value in given.items():
            if value is not None:
                body[key] = value
        return body


async def model_info(client: Client, model: str, insecure: bool) -> dict[str, Any]:
    """What `show` says of a model, which is pulled where it is missing. Raises ClientError."""
    from ollamapy.client import ClientError

    async def show() -> dict[str, Any]:
        info: dict[str, Any] = await client.call("POST", "/api/show", {"model": model})
        return info

    try:
        return await show()
    except ClientError as error:
        if error.status != 404:
            raise
    await show_progress(client.stream("/api/pull", {"model": model, "insecure": insecure}))
    return await show()


def rates(last: dict[str, Any]) -> str:
    """Counts, durations and tokens per second of an answer, those that it has, a line each."""
    from ollamapy.server.duration import duration_text

    lines = []

    def duration(label: str, key: str) -> float:
        nanoseconds: int = last.get(key, 0)
        if nanoseconds > 0:
            lines.append(f"{label + ':':<22}{duration_text(nanoseconds)}\n")
        return nanoseconds / 1e9

    duration("total duration", "total_duration")
    duration("load duration", "load_duration")
    for label, key in (("prompt eval", "prompt_eval"), ("eval", "eval")):
        count = last.get(f"{key}_count", 0)
        if count > 0:
            lines.append(f"{label + ' count:':<22}{count} token(s)\n")
        if seconds := duration(f"{label} duration", f"{key}_duration"):
            lines.append(f"{label + ' rate:':<22}{count / seconds:.2f} tokens/s\n")
    return "".join(lines)


_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class _Thoughts:
    """Writes thinking, dimmed on a terminal, between a line that opens and one that closes it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._style = (_DIM, _PLAIN) if sys.stdout.isatty() else ("", "")
        self._open = False
        self._ends_line = True

    def write(self, text: str) -> None:
        if not self._open:
            sys.stdout.write(self._style[0] + "Thinking...\n")
            self._open = True
        self._writer.write(text)
        self._ends_line = text.endswith("\n")

    def close(self) -> None:
        if self._open:
            self._writer.write("...done thinking.\n\n" if self._ends_line else "\n...done thinking.\n\n")
            sys.stdout.write(self._style[1])
        self._open = False


async def answer(
    client: Client, session: Session, path: str, body: dict[str, Any], texts: list[str] | None = None
) -> None:
    """Ask and print the answer as it comes; texts gets its pieces, also when it breaks off."""
    writer = Writer(session.wrap)
    thoughts = _Thoughts(writer)
    last: dict[str, Any] = {}
    began = False
    try:
        async for event in client.stream(path, body):
            part = event.get("message", event)
            if (thinking := part.get("thinking")) and not session.hide_thinking:
                began = True
                thoughts.write(thinking)
            if text := part.get("content", "") or part.get("response", ""):
                began = True
                thoughts.close()
                if texts is not None:
                    texts.append(text)
                writer.write(text)
            last = event
    except BaseException as error:
        thoughts.close()
        if began or isinstance(error, asyncio.CancelledError):  # the terminal has shown ^C
            writer.write("\n")
        raise
    thoughts.close()
    if body.get("prompt") or body.get("messages"):
        writer.write("\n\n")
    if session.verbose:
        click.echo(rates(last), err=True, nl=False)


async def embed(client: Client, session: Session, text: str, dimensions: int, truncate: bool) -> None:
    body = session.body(input=text, truncate=truncate)
    if dimensions:
        body["dimensions"] = dimensions
    vector = (await client.call("POST", "/api/embed", body))["embeddings"][0]
    click.echo(json.dumps(vector, separators=(",", ":")))


@click.command(cls=Command, short_help="Ask a model")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--format", "form", default=None, help='"json", or a JSON schema.')
@click.option(
    "--keepalive", default=None, help="How long the model stays in memory afterwards: 5m, -1 for ever."
)
@click.option(
    "--think",
    cls=BareOption,
    bare="true",
    metavar="[=VALUE]",
    default=None,
    help="Whether to think first, or how hard: true, false, low, medium, high, max.",
)
@click.option("--hidethinking", is_flag=True, help="Do not show what the model thinks.")
@click.option("--insecure", is_flag=True, help="Pull a missing model over plain http too.")
@click.option("--nowordwrap", is_flag=True, help="Do not break lines at the terminal's width.")
@click.option("--verbose", is_flag=True, help="Show counts and rates after the answer.")
@click.option("--dimensions", type=int, default=0, help="Embedding models: cut the vector.")
@click.option("--truncate/--no-truncate", default=True, help="Embedding models: cut a text that is too long.")
def run(
    model: str,
    prompt: tuple[str, ...],
    form: str | None,
    keepalive: str | None,
    think: str | None,
    hidethinking: bool,
    insecure: bool,
    nowordwrap: bool,
    verbose: bool,
    dimensions: int,
    truncate: bool,
) -> None:
    """Ask MODEL and print its answer as it is written.

    The PROMPT is the arguments, standard input, or both; on a terminal without either a conversation begins, and an
    empty one only loads the model. A model that is not in the store is fetched first, and a server is started
    in the background where none listens.

    \b
      ollamapy run smollm2:135m "Why is the sky blue?"
      ollamapy run smollm2:135m "Summarize this:" < letter.txt
      ollamapy run smollm2:135m
    """
    words = [os.fsencode(word).decode("utf-8", "replace") for word in prompt]
    piped = not sys.stdin.isatty()
    if piped and (read := sys.stdin.buffer.read().decode("utf-8", "replace")):
        words.insert(0, read)
    text = " ".join(words)
    session = Session(model, wrap=not nowordwrap, verbose=verbose, keep_alive=_keep_alive(keepalive))
    session.think, session.think_said, session.hide_thinking = _think(think), think is not None, hidethinking
    if form is not None:
        session.format = _format(form)

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            info = await model_info(client, model, insecure)
            session.use(model, info)
            if "embedding" in info.get("capabilities", []):
                if not text:
                    raise click.ClickException(
                        f'embedding models require input text. Usage: ollamapy run {model} "your text here"'
                    )
                await embed(client, session, text, dimensions, truncate)
            elif words or piped or not sys.stdout.isatty():
                await answer(client, session, "/api/generate", _question(session, text))
            else:
                from ollamapy.cli.chat import converse

                await converse(client, session)

    run_command(work())


def _question(session: Session, text: str) -> dict[str, Any]:
    """The request of a single question, with the images that it names."""
    if not session.sees:
        return session.body(prompt=text)
    from ollamapy.cli.images import take_images

    text, images = take_images(text)
    return session.body(prompt=text, images=images)


def _think(text: str | None) -> bool | str | None:
    if text is None:
        return None
    if text in ("", "true", "false"):
        return text != "false"
    if text not in ("high", "medium", "low", "max"):
        words = "must be true, false, high, medium, low, or max"
        raise click.ClickException(f'invalid value for --think: "{text}" ({words})')
    return text


def _keep_alive(text: str | None) -> Any:
    """A number of seconds or a duration; nothing for an empty text."""
    if text and re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    return text or None


def _format(text: str) -> Any:
    if text in ("", "json"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise click.UsageError("--format is json or a JSON schema") from None
