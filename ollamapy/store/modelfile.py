"""The Modelfile: what a model is made of, as text that `create` reads and `show` writes.

One command a line: a word in any case, blanks, a value. A value in double quotes, one or three, may have several
lines: it ends where a line ends with the same quotes. `#` begins a comment where a command could begin.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ollamapy.store.parameters import plain_text, values_of
from ollamapy.store.store import StoredModel
from ollamapy.types import RequestError

COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")

_NAMES = ", ".join(f'"{name}"' for name in COMMANDS[:-1]) + f', or "{COMMANDS[-1]}"'
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z]+")
_PARAMETER = re.compile(r"[A-Za-z0-9_]*")
_BLANKS = re.compile(r"[ \t]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class ModelfileError(RequestError):
    """A Modelfile that cannot be read; the message names the line where there is one."""


@dataclass(frozen=True)
class Command:
    """One command: its name in lower case, for PARAMETER and MESSAGE also of what, and its value."""

    name: str
    value: str
    key: str = ""  # a parameter's name, a message's role

    def __str__(self) -> str:
        value = self.value if self.name == "from" else quote(self.value)
        keyed = [self.key] if self.name in ("parameter", "message") else []
        return " ".join([self.name.upper(), *keyed, value])


@dataclass
class Modelfile:
    """The commands of a Modelfile in their order."""

    commands: list[Command] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """The values of all commands of a name."""
        return [command.value for command in self.commands if command.name == name]

    def last(self, name: str) -> str:
        """The value of the last command of a name, which is the one that counts; "" without one."""
        return next(iter(reversed(self.values(name))), "")

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Key and value of all commands of a name."""
        return [(command.key, command.value) for command in self.commands if command.name == name]

    def __str__(self) -> str:
        return "".join(f"{command}\n" for command in self.commands)


def quote(text: str) -> str:
    """A value as a Modelfile writes it: quoted where its ends or lines would be lost."""
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def _unquote(text: str) -> str | None:
    """A value without its quotes, None while they are not closed."""
    for mark in ('"""', '"'):
        if text.startswith(mark):
            closed = len(text) >= 2 * len(mark) and text.endswith(mark)
            return text[len(mark) : -len(mark)] if closed else None
    return text


def decode_modelfile(data: bytes) -> str:
    """The text of a Modelfile: UTF-8, or what its byte order mark says. What is not valid becomes U+FFFD."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


class _Reader:
    """A place in the text of a Modelfile."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        found = match[0] if match else ""
        self.position += len(found)
        return found

    @property
    def here(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.position : self.position + 1]

    def fail(self, message: str) -> ModelfileError:
        """An error at the next character; a line end counts as part of the line it begins."""
        end = self.position + (2 if self.text.startswith("\r\n", self.position) else 1)
        lines = len(_LINE_END.findall(self.text[:end]))
        return ModelfileError(f"(line {lines + 1}): {message}")

    def value(self) -> str:
        """The rest of the line, or more lines while quotes are open."""
        start = self.position
        while True:
            line_end = _LINE_END.search(self.text, self.position)
            end = line_end.start() if line_end else len(self.text)
            value = _unquote(_CONTROL.sub("", self.text[start:end].strip()))
            self.position = line_end.end() if line_end else end
            if value is not None:
                return value
            if not line_end:
                raise ModelfileError("unexpected EOF")
            self._skip_to_quote()

    def _skip_to_quote(self) -> None:
        """To the line in which the next double quote is: no other line can close the value."""
        found = self.text.find('"', self.position)
        if found < 0:
            raise ModelfileError("unexpected EOF")
        before = max(self.text.rfind("\n", self.position, found), self.text.rfind("\r", self.position, found))
        self.position = max(self.position, before + 1)


def parse_modelfile(source: str | bytes) -> Modelfile:
    """Read a Modelfile. Raises ModelfileError."""
    reader = _Reader(decode_modelfile(source) if isinstance(source, bytes) else source.removeprefix("\ufeff"))
    commands = []
    while reader.take(_BETWEEN) or reader.here:
        if not reader.here:
            break
        commands.append(_command(reader))
    if not any(command.name == "from" for command in commands):
        raise ModelfileError("no FROM line")
    return Modelfile(commands)


def _command(reader: _Reader) -> Command:
    name = reader.take(_NAME).lower()
    if not reader.here and name:
        raise ModelfileError("unexpected EOF")
    if name not in COMMANDS or reader.here not in " \t":
        raise reader.fail(f"command must be one of {_NAMES}")
    reader.take(_BLANKS)
    key = ""
    if name in ("parameter", "message"):
        key = reader.take(_PARAMETER if name == "parameter" else _NAME)
        if not reader.here or reader.here not in " \t":
            raise ModelfileError(f"unexpected EOF: {key}")
        if name == "message" and key not in ROLES:
            raise reader.fail('message role must be one of "system", "user", or "assistant"')
        reader.take(_BLANKS)
    return Command(name, reader.value(), key)


def stored_modelfile(
    stored: StoredModel, template: str, system: str, options: dict[str, Any] | None = None
) -> Modelfile:
    """The Modelfile of a stored model; options, if any, stand above its own."""
    config = stored.config
    commands = [Command("from", str(path)) for path in stored.paths("model")] or [Command("from", "")]
    commands += [Command("adapter", str(path)) for path in stored.paths("adapter")]
    commands += [Command("from", str(path)) for path in stored.paths("projector")]
    for name, value in (
        ("template", template),
        ("system", system),
        ("renderer", config.renderer),
        ("parser", config.parser),
        ("requires", config.requires),
    ):
        if value:
            commands.append(Command(name, value))
    for key, value in {**stored.parameters, **(options or {})}.items():
        commands += [Command("parameter", plain_text(item), key) for item in values_of(value)]
    commands += [Command("license", text) for text in stored.licenses]
    commands += _messages(stored.messages)
    return Modelfile(commands)


def _messages(messages: Iterable[dict[str, Any]]) -> list[Command]:
    return [
        Command("message", str(message.get("content", "")), str(message.get("role", "")))
        for message in messages
    ]


def shown_modelfile(stored: StoredModel, modelfile: Modelfile) -> str:
    """What `show --modelfile` prints: the Modelfile under a comment that says how to build upon it."""
    return (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {stored.name.short}\n\n{modelfile}"
    )
