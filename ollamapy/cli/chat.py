"""The conversation of `ollamapy run MODEL`: a prompt, its commands, and answers that Ctrl-C stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import click

from ollamapy.cli import chat_help
from ollamapy.cli.images import image_paths, take_images
from ollamapy.cli.prompt_line import MORE, LineInterrupt, LineReader, history_wanted
from ollamapy.cli.run import Session, answer

if TYPE_CHECKING:
    from ollamapy.client import Client

_QUOTES = '"""'


async def converse(client: Client, session: Session) -> None:
    """Talk until /bye or the end of the input."""
    await client.call("POST", "/api/generate", session.body())  # the model loads while the user thinks
    for message in session.loaded_messages:
        _show_message(message)
    conversation = _Conversation(client, session, LineReader(history_wanted()))
    while await conversation.turn():
        pass


def _shown(value: Any) -> str:
    """An option's value; a list in brackets."""
    from ollamapy.store.parameters import plain_text, values_of

    text = " ".join(map(plain_text, values_of(value)))
    return f"[{text}]" if isinstance(value, list) else text


def _show_message(message: dict[str, Any]) -> None:
    """A message that belongs to the model."""
    if message.get("role") == "user":
        click.echo(f">>> {message.get('content', '')}")
    elif message.get("role") == "assistant":
        click.echo(f"{message.get('content', '')}\n")


class _Conversation:
    def __init__(self, client: Client, session: Session, lines: LineReader) -> None:
        self._client = client
        self._session = session
        self._lines = lines

    async def turn(self) -> bool:
        """One message or command; False ends the conversation."""
        from ollamapy.client import ClientError

        try:
            line = await self._lines.read()
            if line.startswith(_QUOTES):
                if text := await self._rest(line.removeprefix(_QUOTES)):
                    await self._ask(text)
            elif line.startswith("/") and not self._names_image(line):
                return await self._command(line)
            elif line.strip():
                await self._ask(line)
        except EOFError:
            click.echo()
            return False
        except LineInterrupt as interrupt:
            if interrupt.empty:
                click.echo("\nUse Ctrl + d or /bye to exit.")
        except (ClientError, click.ClickException) as error:
            click.echo(f"Error: {error}", err=True)
        return True

    async def _rest(self, first: str) -> str:
        """A text of several lines that three quotes end."""
        lines = [first]
        while not lines[-1].endswith(_QUOTES):
            lines.append(await self._lines.read(MORE))
        lines[-1] = lines[-1].removesuffix(_QUOTES)
        return "\n".join(lines)

    def _names_image(self, line: str) -> bool:
        return self._session.sees and any(path.startswith(line.split()[0]) for path in image_paths(line))

    async def _ask(self, text: str) -> None:
        """An answer that Ctrl-C stops; what was written of it stays in the conversation."""
        session = self._session
        message: dict[str, Any] = {"role": "user", "content": text}
        if session.sees:
            message["content"], images = take_images(text)
            if images:
                message["images"] = images
        session.messages.append(message)
        texts: list[str] = []
        body = session.body(messages=list(session.messages))
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

    # ---------------------------------------------------------------- commands

    async def _command(self, line: str) -> bool:
        words = line.split()
        name, rest = words[0], words[1:]
        if name.startswith(("/bye", "/exit")):
            return False
        if name.startswith(("/?", "/help")):
            self._help(rest)
        elif name.startswith("/clear"):
            session = self._session
            session.messages = (
                [] if session.system is None else [{"role": "system", "content": session.system}]
            )
            click.echo("Cleared session context")
        elif name.startswith("/set"):
            await self._set(rest)
        elif name.startswith("/show"):
            await self._show(rest)
        elif name.startswith("/list"):
            await self._list(rest[0] if rest else "")
        elif name.startswith(("/load", "/save")):
            if len(rest) != 1:
                click.echo(f"Usage:\n  {name[:5]} <modelname>")
            elif name.startswith("/load"):
                await self._load(rest[0])
            else:
                await self._save(rest[0])
        else:
            click.echo(f"Unknown command '{name}'. Type /? for help")
        return True

    def _help(self, rest: list[str]) -> None:
        what = rest[0].removeprefix("/") if rest else ""
        texts = {"set": chat_help.SET, "show": chat_help.SHOW}
        texts |= dict.fromkeys(("shortcut", "shortcuts"), chat_help.SHORTCUTS)
        if not what:
            click.echo(chat_help.COMMANDS + (chat_help.IMAGES if self._session.sees else ""), err=True)
        elif what in texts:
            click.echo(texts[what], err=True)

    async def _list(self, prefix: str) -> None:
        from ollamapy.cli.models import list_models

        await list_models(self._client, prefix)

    async def _set(self, rest: list[str]) -> None:
        session = self._session
        what, values = (rest[0], rest[1:]) if rest else ("", [])
        if not what:
            click.echo(chat_help.SET, err=True)
        elif what == "parameter":
            self._set_parameter(values)
        elif what == "system":
            await self._set_system(values)
        elif what in ("history", "nohistory"):
            self._lines.remember(what == "history")
        elif what in ("wordwrap", "nowordwrap"):
            session.wrap = what == "wordwrap"
            click.echo(f"Set '{what}' mode.")
        elif what in ("verbose", "quiet"):
            session.verbose = what == "verbose"
            click.echo(f"Set '{what}' mode.")
        elif what in ("think", "nothink"):
            await self._set_think(what == "think", values)
        elif what == "format" and values[:1] == ["json"]:
            session.format = "json"
            click.echo("Set format to 'json' mode.")
        elif what == "format":
            click.echo("Invalid or missing format. For 'json' mode use '/set format json'")
        elif what == "noformat":
            session.format = None
            click.echo("Disabled format.")
        else:
            click.echo(f"Unknown command '/set {what}'. Type /? for help")

    def _set_parameter(self, values: list[str]) -> None:
        from ollamapy.store.parameters import ParameterError, parse_parameter

        if len(values) < 2:
            click.echo(chat_help.PARAMETERS, err=True)
            return
        name, words = values[0], values[1:]
        try:
            self._session.options[name] = parse_parameter(name, words)
        except ParameterError as error:
            click.echo(f'Couldn\'t set parameter: "{error}"')
            return
        click.echo(f"Set parameter '{name}' to '{', '.join(words)}'")

    async def _set_system(self, values: list[str]) -> None:
        """The system text is a message of the conversation from here on."""
        text = " ".join(values)
        if not text:
            click.echo(chat_help.SET, err=True)
            return
        if text.startswith(_QUOTES):
            text = await self._rest(text.removeprefix(_QUOTES))
        session = self._session
        session.system = text
        if session.messages and session.messages[-1]["role"] == "system":
            session.messages.pop()
        session.messages.append({"role": "system", "content": text})
        click.echo("Set system message.")

    async def _set_think(self, wanted: bool, values: list[str]) -> None:
        session = self._session
        session.think, session.think_said = values[0] if wanted and values else wanted, True
        info = await self._client.call("POST", "/api/show", {"model": session.model})
        if "thinking" not in info.get("capabilities", []):
            click.echo(f'warning: model "{session.model}" does not support thinking output', err=True)
        if not wanted:
            click.echo("Set 'nothink' mode.")
        else:
            click.echo(f"Set 'think' mode to '{values[0]}'." if values else "Set 'think' mode.")

    async def _show(self, rest: list[str]) -> None:
        from ollamapy.cli.show import describe

        session = self._session
        what = rest[0] if rest else ""
        if not what:
            click.echo(chat_help.SHOW, err=True)
            return
        body = {"model": session.model, "system": session.system or "", "options": session.options}
        info = await self._client.call("POST", "/api/show", body)
        if what == "info":
            click.echo(describe(info, verbose=False), nl=False)
        elif what == "license":
            click.echo(info.get("license") or "No license was specified for this model.")
        elif what == "modelfile":
            click.echo(info.get("modelfile", ""))
        elif what == "parameters":
            text = info.get("parameters") or "No additional parameters were specified for this model."
            click.echo("Model defined parameters:")
            click.echo("".join(f"  {line}\n" for line in text.splitlines()))
            if session.options:
                click.echo("User defined parameters:")
                lines = (f"  {name:<30} {_shown(value)}\n" for name, value in session.options.items())
                click.echo("".join(lines))
        elif what == "system":
            text = session.system or info.get("system")
            click.echo(f"{text}\n" if text else "No system message was specified for this model.")
        elif what == "template":
            click.echo(info.get("template") or "No prompt template was specified for this model.")
        else:
            click.echo(f"Unknown command '/show {what}'. Type /? for help")

    async def _load(self, name: str) -> None:
        from ollamapy.client import ClientError

        click.echo(f"Loading model '{name}'")
        session = self._session
        try:
            info = await self._client.call("POST", "/api/show", {"model": name})
        except ClientError as error:
            if "not found" not in str(error):
                raise
            click.echo(f"Couldn't find model '{name}'")
            return
        session.use(name, info)
        session.messages = []
        await self._client.call("POST", "/api/generate", session.body())

    async def _save(self, name: str) -> None:
        """The session as a model: its parameters, system text and messages."""
        from ollamapy.client import ClientError

        session = self._session
        fields = {
            "parameters": session.options,
            "system": session.system,
            "messages": session.loaded_messages + session.messages,
        }
        body: dict[str, Any] = {"model": name, "from": session.model, "stream": False}
        body |= {key: value for key, value in fields.items() if value}
        try:
            await self._client.call("POST", "/api/create", body)
        except ClientError as error:
            if "invalid model name" not in str(error):
                raise
            click.echo(f"error: The model name '{name}' is invalid")
            return
        click.echo(f"Created new model '{name}'")
