"""How a model's text is read: content, thinking and tool calls, from text that arrives in any pieces.

A parser is written down once, as a generator over a growing text (`Parser.read`), and reads like the format it is
for: text until a tag, a call, text again. What it yields never depends on where the text was cut: every decision
waits until the text can be nothing else.
"""

from __future__ import annotations

import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ollamapy.types import RequestError

Tool = Mapping[str, Any]
"""An offered tool as Ollama and OpenAI write it: `{"type": "function", "function": {"name", "parameters", …}}`."""
Think = bool | str | None
"""Whether, or how hard ("low", "medium", "high", "max"), a model shall think; None: not said."""

_ID_LETTERS = string.ascii_lowercase + string.digits


class ParseError(RequestError):
    """A text that breaks its format in a way that leaves no answer."""

    status = 500


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Text of the thought before the answer."""

    text: str


def call_id() -> str:
    """`call_` and eight characters, as clients know them."""
    return "call_" + "".join(secrets.choice(_ID_LETTERS) for _ in range(8))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call. Calls that say the same are equal whatever their ids."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=call_id, compare=False)


Trim = bool | Literal["at once", "before a whole tag"]
"""What becomes of white space before a tag and at the end of the text. True: it is dropped. The others drop it as
Ollama does for a few families, depending on how the text arrives: "at once": unless it came before the tag began;
"before a whole tag": unless the tag came in parts."""

Piece = Content | Thinking | ToolCall
Reading = Generator[Piece | None, None, None]
"""Yields pieces as they are certain, and None to wait for more text. Returns when the text has ended."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a parser knows about the request whose answer it reads."""

    tools: Sequence[Tool] = ()
    think: Think = None
    last: Mapping[str, Any] | None = None
    """the last message: one of the assistant's is a beginning that the model goes on with"""


FAMILIES: dict[str, type[Parser]] = {}
"""the parsers by name"""


def family(name: str) -> type[Parser] | None:
    """The parser of a name; None for a name that nobody knows, whose models' text is read as it is."""
    return FAMILIES.get(name)


class Parser(ABC):
    """One format. Subclasses write `read` with `_upto`, `_inside` and their like, and the class variables.

    A class that has names is known by them: `class QuillParser(Parser, names=("quill",))`.
    """

    has_tools: ClassVar[bool] = False
    has_thinking: ClassVar[bool] = False
    thought_tags: ClassVar[tuple[str, str] | None] = None
    """what a thought stands between; the first one is the end of the prompt where in_thought"""
    opened_by_prompt: ClassVar[bool] = True
    """whether the first of thought_tags is all that opens a thought; else its messages have headers"""
    visible: Sequence[str] = ()
    """control tokens that are a part of the format: elsewhere they are no text"""

    def __init_subclass__(cls, names: Sequence[str] = ()) -> None:
        super().__init_subclass__()
        for name in names:
            assert name not in FAMILIES, f"two parsers are named {name}"
            FAMILIES[name] = cls

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.tools: Sequence[Tool] = setup.tools
        """the tools as the prompt shall offer them"""
        self.unfinished_call = False
        """whether the text ended inside a call"""
        self.in_tags = False
        """whether what came last is neither text nor thought, nor will be: log probabilities leave it out"""
        self.in_thought = self._in_thought()
        """whether the prompt ends inside of a thought"""
        self.thought = self.thought_tags if self.in_thought or self._may_think() else None
        """tags of a thought that may come before the answer, which a grammar leaves free"""
        self.by_prompt = False
        """whether the prompt's end says if the model thinks: the template is not the one the parser expects"""
        self._text = ""
        self._ended = False
        self._cut = False
        self._spoken = False
        self._reading: Reading | None = None

    def follow(self, prompt: str) -> None:
        """Learns the prompt that the text goes on from."""
        if self.by_prompt and self.thought_tags is not None and self.opened_by_prompt:
            self.in_thought = prompt.rstrip().endswith(self.thought_tags[0])
            self.thought = self.thought_tags if self.in_thought or self._thinks else None
            self.visible = (*self.visible, *self.thought_tags)

    def _answer(self) -> Reading:
        tags = self.thought_tags if self.opened_by_prompt and not self._may_think() else None
        if self.by_prompt and self._thinks and tags is not None and not self.in_thought:
            self.in_thought = yield from self._echo(tags[0])
        yield from self.read()

    @abstractmethod
    def read(self) -> Reading:
        """The format, from the first character of the answer to the last."""

    def push(self, text: str) -> list[Piece]:
        """What is certain after some more text; often nothing. Raises ParseError."""
        self._text += text
        return self._advance()

    def finish(self, cut: bool = False) -> list[Piece]:
        """What is left at the end of the text, which a limit has cut or not. Raises ParseError."""
        self._ended = True
        self._cut = cut
        return self._advance()

    def _advance(self) -> list[Piece]:
        if self._reading is None:
            self._reading = self._answer()
        pieces: list[Piece] = []
        for piece in self._reading:
            if piece is None:
                return pieces
            self._spoken = True
            pieces.append(piece)
        return pieces

    # For read()

    @property
    def _thinks(self) -> bool:
        """Whether the request asks for a thought."""
        return bool(self.setup.think)

    def _in_thought(self) -> bool:
        """Whether the prompt of this request ends inside of a thought."""
        return False

    def _may_think(self) -> bool:
        """Whether the model may begin a thought by itself that the parser takes for one."""
        return False

    @property
    def _goes_on(self) -> bool:
        """Whether the model goes on with an answer that the request begins: its thought is over."""
        last = self.setup.last
        return last is not None and last.get("role") == "assistant" and bool(last.get("content"))

    def _broken(self, message: str, text: str) -> Reading:
        """A call that cannot be read: an error if it is the first thing that the model says, else its text."""
        if not self._spoken:
            raise ParseError(message)
        yield Content(text)

    def _unfinished(self, tag: str, *beginnings: str) -> Reading:
        """The text ended after a tag that begins a call, without one. Half a call is no text: Ollama's users
        do not see it; what does not even begin as one of beginnings is text, and the tag with it."""
        self.unfinished_call = True
        text = self._drop(len(self._text))
        start = text.lstrip()
        if not any(start.startswith(b) or b.startswith(start) for b in beginnings):
            yield Content(tag + text)

    def _echo(self, tag: str) -> Generator[None, None, bool]:
        """Drop a tag that the prompt ends with and the model may repeat. White space may stand before it."""
        while True:
            text = self._text.lstrip()
            if text.startswith(tag):
                self._text = text[len(tag) :]
                return True
            if not tag.startswith(text) or not (yield from self._wait()):
                return False

    def _drop(self, count: int) -> str:
        """Take characters off the front of the text."""
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def _wait(self) -> Generator[None, None, bool]:
        """Wait for more text. False: there is none any more."""
        if self._ended:
            return False
        yield None
        return True

    def _upto(
        self, kind: type[Content] | type[Thinking] | None, *tags: str, trim: Trim = False
    ) -> Generator[Piece | None, None, str | None]:
        """Hand on text, unless kind is None, until the first of tags, which is dropped and returned; None: the
        text ended before."""
        firsts = {tag[0] for tag in tags}
        while True:
            if not trim and firsts.isdisjoint(self._text):  # most text has nothing that looks like a tag
                text = self._drop(len(self._text))
                if text and kind is not None:
                    yield kind(text)
                if not (yield from self._wait()):
                    return None
                continue
            found = [(at, -len(tag), tag) for tag in tags if (at := self._text.find(tag)) >= 0]
            at, _, tag = min(found, default=(len(self._text), 0, ""))
            # another tag may begin before the one that is complete, or be it and more
            sure = min((open_end(self._text, t, at) for t in tags), default=at) if not self._ended else at
            grows = not self._ended and any(
                len(t) > len(tag) and t.startswith(self._text[at:]) for t in tags if found
            )
            settled = bool(found) and sure == at and not grows
            text = self._text[:sure]
            partial = not settled and sure < len(self._text)
            if trim and not (trim == "at once" and not settled and not partial):
                text = text if trim == "before a whole tag" and partial else text.rstrip()
                if not settled and not self._ended:
                    sure = len(text)
            if text and kind is not None:
                yield kind(text)
            self._drop(sure)
            if settled:
                self._drop(len(tag))
                return tag
            if not (yield from self._wait()):
                return None

    def _inside(self, tag: str) -> Generator[None, None, str | None]:
        """All text before tag, which is dropped with it. None: there is no tag; the text stays where it is."""
        start = 0
        while (at := self._text.find(tag, start)) < 0:
            start = max(0, len(self._text) - len(tag) + 1)
            if not (yield from self._wait()):
                return None
        inside = self._drop(at)
        self._drop(len(tag))
        return inside

    def _unclosed(self, tag: str) -> str:
        """What is left of the text, without a closing tag that it ends in the middle of."""
        return self._text[: open_end(self._text, tag, len(self._text))]

    def _skip_blanks(self) -> Generator[None, None, None]:
        """Drop white space until there is something else or the text ends."""
        while True:
            self._text = self._text.lstrip()
            if self._text or not (yield from self._wait()):
                return

    def _starts(self, *tags: str) -> Generator[None, None, str | None]:
        """The tag the text starts with, which is dropped; None when it starts otherwise. The longest wins."""
        while any(len(tag) > len(self._text) and tag.startswith(self._text) for tag in tags):
            if not (yield from self._wait()):
                break
        for tag in sorted(tags, key=len, reverse=True):
            if self._text.startswith(tag):
                return self._drop(len(tag))
        return None

    def _rest(self, kind: type[Content] | type[Thinking]) -> Reading:
        """Hand on everything that comes yet."""
        yield from self._upto(kind)


def open_end(text: str, tag: str, end: int) -> int:
    """Where, before end, a tag begins that the text ends in the middle of; end if there is none."""
    for at in range(max(0, len(text) - len(tag) + 1), min(end + 1, len(text))):
        if tag.startswith(text[at:]):
            return at
    return end
