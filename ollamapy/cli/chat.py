"""The conversation of `ollamapy run MODEL`: a prompt, its commands, and answers that Ctrl-C stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli.run import Session, answer, ensure_model

if TYPE_CHECKING:
    from ollamapy.client import Client

_QUOTES = '"""'
_HELP = """Available commands:
  /set            Set session settings
  /show           Show what the model is
  /load MODEL     Go on with another model
  /save MODEL     Save the session as a model
  /clear          Forget the conversation
  /bye            Leave
  /?, /help       This help

Use \"\"\" to begin and to end a message of several lines."""
_SET_HELP = """Available settings:
  /set parameter NAME VALUE...  An option such as temperature, seed, num_ctx or stop
  /set system TEXT              The system text
  /set wordwrap | nowordwrap    Break lines at the terminal's width, or not
  /set format json | noformat   Ask for JSON, or not
  /set verbose | quiet          Show counts and rates after answers, or not
  /set history | nohistory      Keep a history of what you type, or not"""
_SHOW = ("info", "license", "modelfile", "parameters", "system", "template")

LineReader = Callable[[str], Awaitable[str]]


def history_path() -> Path:
    return Path.home() / ".ollama" / "history"


def _line_reader(history: bool) -> LineReader:
    """Reads a line with editing keys and history. Raises EOFError, KeyboardInterrupt."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_path()
    if history:
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = FileHistory(str(path)) if history else InMemoryHistory()
    session: Any = PromptSession(history=kept, enable_open_in_editor=True)
    hint = FormattedText([("fg:ansibrightblack", "Send a message (/? for help)")])

    async def read(prompt: str) -> str:
        line: str = await session.prompt_async(prompt, placeholder=hint if prompt == ">>> " else None)
        return line

    return read


async def converse(client: Client, session: Session) -> None:
    """Talk until /bye or the end of the input."""
    await client.call("POST", "/api/generate", session.body())  # the model loads while the user thinks
    read = _line_reader(os.environ.get("OLLAMA_NOHISTORY", "") in ("", "0", "false"))
    conversation = _Conversation(client, session, read)
    while await conversation.turn():
        pass


class _Conversation:
    def __init__(self, client: Client, session: Session, read: LineReader) -> None:
        self._client = client
        self._session = session
        self._read = read
        self._interrupted = False

    async def turn(self) -> bool:
        """One message or command; False ends the conversation."""
        try:
            text = await self._message()
        except EOFError:
            return False
        except KeyboardInterrupt:
            if self._interrupted:
                click.echo("Use Ctrl-d or /bye to leave.")
            self._interrupted = not self._interrupted
            return True
        self._interrupted = False
        if not text.strip():
            return True
        from ollamapy.client import ClientError

        try:
            if text.startswith("/"):
                return await self._command(text.split())
            await self._ask(text)
        except ClientError as error:
            click.echo(f"Error: {error}", err=True)
        return True

    async def _message(self) -> str:
        line = await self._read(">>> ")
        if not line.startswith(_QUOTES):
            return line
        lines = [line[len(_QUOTES) :]]
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(await self._read("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
        return "\n".join(lines)

    async def _ask(self, text: str) -> None:
        """An answer that Ctrl-C stops; what was written of it stays in the conversation."""
        session = self._session
        session.messages.append({"role": "user", "content": text})
        messages = list(session.messages)
        if session.system is not None:
            messages.insert(0, {"role": "system", "content": session.system})
        texts: list[str] = []
        body = session.body(messages=messages)
        task = asyncio.ensure_future(answer(self._client, session, "/api/chat", body, texts))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await task
            session.messages.append({"role": "assistant", "content": "".join(texts)})
        except BaseException:
            session.messages.pop()  # it was not answered
            raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        sys.stdout.write("\n")

    # ---------------------------------------------------------------- commands

    async def _command(self, words: list[str]) -> bool:
        name, rest = words[0], words[1:]
        if name in ("/bye", "/exit"):
            return False
        if name in ("/?", "/help"):
            click.echo(_SET_HELP if rest[:1] == ["/set"] or rest[:1] == ["set"] else _HELP)
        elif name == "/clear":
            self._session.messages.clear()
            click.echo("Cleared the conversation.")
        elif name == "/set":
            self._set(rest)
        elif name == "/show":
            await self._show(rest)
        elif name == "/load" and len(rest) == 1:
            await ensure_model(self._client, rest[0])
            self._session.model = rest[0]
            self._session.messages.clear()
            await self._client.call("POST", "/api/generate", self._session.body())
        elif name == "/save" and len(rest) == 1:
            await self._save(rest[0])
        else:
            click.echo(f"Unknown command '{' '.join(words)}'. Type /? for help.")
        return True

    def _set(self, rest: list[str]) -> None:
        session = self._session
        what, values = (rest[0], rest[1:]) if rest else ("", [])
        if what == "parameter" and len(values) >= 2:
            from ollamapy.store.parameters import parse_parameter

            session.options[values[0]] = parse_parameter(values[0], values[1:])
            click.echo(f"Set parameter '{values[0]}' to '{', '.join(values[1:])}'")
        elif what == "system" and values:
            session.system = " ".join(values).strip('"')
            click.echo("Set system message.")
        elif what in ("wordwrap", "nowordwrap"):
            session.wrap = what == "wordwrap"
            click.echo(f"Set '{what}' mode.")
        elif what == "format" and values == ["json"]:
            session.format = "json"
            click.echo("Set format to 'json' mode.")
        elif what == "noformat":
            session.format = None
            click.echo("Disabled format.")
        elif what in ("verbose", "quiet"):
            session.verbose = what == "verbose"
            click.echo(f"Set '{what}' mode.")
        elif what in ("history", "nohistory"):
            self._read = _line_reader(what == "history")
        else:
            click.echo(_SET_HELP)

    async def _show(self, rest: list[str]) -> None:
        from ollamapy.cli.show import describe

        what = rest[0] if rest else ""
        if what not in _SHOW:
            click.echo("Available: " + ", ".join(f"/show {name}" for name in _SHOW))
            return
        info = await self._client.call("POST", "/api/show", {"model": self._session.model})
        if what == "info":
            click.echo(describe(info, verbose=False))
        elif what == "system" and self._session.system is not None:
            click.echo(self._session.system)
        elif what == "parameters":
            for key, value in self._session.options.items():
                click.echo(f"{key:<30} {value}")
            click.echo(info.get("parameters", ""))
        else:
            click.echo(info.get(what) or f"No {what} is set.")

    async def _save(self, name: str) -> None:
        session = self._session
        body: dict[str, Any] = {"model": name, "from": session.model, "stream": False}
        for key, value in (
            ("parameters", session.options),
            ("messages", session.messages),
            ("system", session.system),
        ):
            if value:
                body[key] = value
        await self._client.call("POST", "/api/create", body)
        click.echo(f"Created new model '{name}'")
