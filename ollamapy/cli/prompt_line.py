"""Reads lines of a conversation from a terminal: editing keys, a history in a file, a hint where nothing is typed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT, MORE = ">>> ", "... "
_HINTS = {PROMPT: "Send a message (/? for help)", MORE: "Press Enter to send"}


class LineInterrupt(Exception):
    """Ctrl-C; empty says whether nothing was typed."""

    def __init__(self, empty: bool) -> None:
        super().__init__()
        self.empty = empty


def _private(path: str, flags: int) -> int:
    """Opens a file, a new one for nobody else."""
    return os.open(path, flags, 0o600)


class LineHistory(History):
    """One line per entry, the file that Ollama keeps too. A file that cannot be written is no obstacle."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        try:
            lines = self._path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return []
        return [line for line in reversed(lines) if line.strip()]

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                file.write(" ".join(string.splitlines()) + "\n")


def history_path() -> Path:
    return Path.home() / ".ollama" / "history"


def history_wanted() -> bool:
    """Whether OLLAMA_NOHISTORY allows a history."""
    return os.environ.get("OLLAMA_NOHISTORY", "").strip().lower() in ("", "0", "false", "f")


def _bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-c")
    def interrupt(event: KeyPressEvent) -> None:
        empty = not event.current_buffer.text
        event.app.exit(exception=LineInterrupt(empty), style="class:aborting")

    @keys.add("c-g")
    def edit(event: KeyPressEvent) -> None:
        editor = (
            os.environ.get("OLLAMA_EDITOR") or os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        )
        if shutil.which(editor.split()[0]) is None:
            hint = "set OLLAMA_EDITOR to the path of your preferred editor"
            click.echo(f'error: editor "{editor.split()[0]}" not found, {hint}', err=True)
            return
        os.environ["VISUAL"] = editor
        event.current_buffer.open_in_editor()

    return keys


class LineReader:
    """Reads lines; history is kept in memory and, while enabled, in the file."""

    def __init__(self, history: bool) -> None:
        self._session: Any = None
        self.remember(history)

    def remember(self, enabled: bool) -> None:
        """Keep a history in the file, or none at all."""
        history = LineHistory(history_path()) if enabled else InMemoryHistory()
        self._session = PromptSession(history=history, key_bindings=_bindings())

    async def read(self, prompt: str = PROMPT) -> str:
        """A line. Raises EOFError for Ctrl-D at an empty one, LineInterrupt."""
        hint = FormattedText([("fg:ansibrightblack", _HINTS[prompt])])
        line: str = await self._session.prompt_async(prompt, placeholder=hint)
        return line
