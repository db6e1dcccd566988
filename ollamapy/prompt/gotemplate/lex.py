"""Cuts a Go template into text and the tokens of its actions."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from ollamapy.prompt.errors import TemplateSyntaxError

Kind = Literal[
    "text", "open", "close", "space", "field", "variable", "dot", "identifier", "keyword", "number", "char",
    "string", "pipe", "comma", "assign", "declare", "left", "right",
]  # fmt: skip

KEYWORDS = frozenset(
    ["if", "else", "end", "range", "with", "define", "block", "template", "break", "continue", "nil"]
)
_BLANK = " \t\r\n"
_TRIM = re.compile(r"-[ \t\r\n]")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORD = r"[^\W\d]\w*"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]+)
    |(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<comma>,)|(?P<left>\()|(?P<right>\))
    |(?P<variable>\$\w*)
    |(?P<number>[+-]?(?:0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))
    |(?P<field>\.{_WORD})|(?P<dot>\.)
    |(?P<word>{_WORD})
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    line: int


def fail(line: int, message: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(f"template: :{line}: {message}")


def tokens(source: str) -> Iterator[Token]:
    """The tokens of a template. Raises TemplateSyntaxError."""
    position, line, trim = 0, 1, False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim:
            text = text.lstrip(_BLANK)
        trims_left = (
            start >= 0
            and source[start + 2 : start + 3] == "-"
            and source[start + 3 : start + 4] in set(_BLANK)
        )
        shown = text.rstrip(_BLANK) if trims_left else text
        if shown:
            yield Token("text", shown, line)
        if start < 0:
            return
        line += source.count("\n", position, start)
        inside = start + (3 if trims_left else 2)
        comment = re.compile(r"[ \t\r\n]*/\*" if trims_left else r"/\*").match(source, inside)
        if comment:
            end = source.find("*/", comment.end())
            if end < 0:
                raise fail(line, "unclosed comment")
            closing = re.compile(r"([ \t\r\n]+-)?\}\}").match(source, end + 2)
            if not closing:
                raise fail(line, "comment ends before closing delimiter")
            trim = closing[1] is not None
            line += source.count("\n", start, closing.end())
            position = closing.end()
            continue
        yield Token("open", "{{", line)
        position, line, trim = yield from _action(source, inside, line)


def _action(source: str, position: int, line: int) -> Generator[Token, None, tuple[int, int, bool]]:
    """The tokens up to }}; returns where text goes on, its line, and whether its blanks are trimmed."""
    depth = 0
    closing = re.compile(r"([ \t\r\n]+-)?\}\}")
    while True:
        if end := closing.match(source, position):
            if depth:
                raise fail(line, "unclosed left paren")
            line += source.count("\n", position, end.end())
            yield Token("close", "}}", line)
            return end.end(), line, end[1] is not None
        if position >= len(source):
            raise fail(line, "unclosed action")
        match = _TOKEN.match(source, position)
        if not match:
            raise fail(line, _unreadable(source, position))
        kind, text = match.lastgroup or "", match[0]
        position = match.end()
        if kind == "word":
            kind = "keyword" if text in KEYWORDS else "identifier"
        if kind == "number" and (after := re.compile(r"\w+").match(source, position)):
            raise fail(line, f'bad number syntax: "{text}{after[0][0]}"')
        if kind in ("field", "variable", "identifier", "keyword") and not _ends_word(source, position):
            raise fail(line, f"bad character U+{ord(source[position]):04X} {source[position]!r}")
        depth += {"left": 1, "right": -1}.get(kind, 0)
        if depth < 0:
            raise fail(line, "unexpected right paren")
        yield Token(kind, text, line)  # type: ignore[arg-type]
        line += text.count("\n")


def _ends_word(source: str, position: int) -> bool:
    return (
        position >= len(source) or source[position] in " \t\r\n.,|:=)(}" or source.startswith("}}", position)
    )


def _unreadable(source: str, position: int) -> str:
    quote = source[position]
    return {
        '"': "unterminated quoted string",
        "`": "unterminated raw quoted string",
        "'": "unterminated character constant",
    }.get(quote, f'unexpected "{quote}" in command')


def unquote(token: Token) -> str:
    """The value of a string or character constant. Raises TemplateSyntaxError."""
    body = token.text[1:-1]
    if token.text[0] == "`":
        return body

    def escape(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU" and len(code) > 1:
            number = int(code[1:], 16)
        elif code[0] in "01234567" and len(code) == 3:
            number = int(code, 8)
        elif code in _ESCAPES:
            return _ESCAPES[code]
        elif code in ("\\", token.text[0]):
            return code
        else:
            raise fail(token.line, "invalid syntax")
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise fail(token.line, "invalid syntax")
        return chr(number)

    forms = r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|[0-7]{3}|.)"
    return re.sub(forms, escape, body, flags=re.DOTALL)
