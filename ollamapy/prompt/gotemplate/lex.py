"""Cuts a Go template into text and the tokens of its actions, as text/template/parse does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ollamapy.prompt.errors import TemplateSyntaxError
from ollamapy.prompt.gotemplate.values import bytes_string

Kind = Literal[
    "error", "eof", "text", "open", "close", "space", "field", "variable", "dot", "identifier", "keyword",
    "bool", "number", "char", "string", "pipe", "comma", "assign", "declare", "left", "right", "other",
]  # fmt: skip

KEYWORDS = frozenset(
    ["if", "else", "end", "range", "with", "define", "block", "template", "break", "continue", "nil"]
)
_BLANK = " \t\r\n"
_TERMINATORS = ".,|:()"  # that may follow a word, besides a blank, the end and }}
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CLOSE = re.compile(r"([ \t\r\n]+-)?\}\}")
_COMMENT_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
_SPACE = re.compile(r"[ \t\r\n]+")
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][\da-fA-F_]*(?:\.[\da-fA-F_]*)?(?:[pP][+-]?[\d_]*)?|0[bB][01_]*(?:\.[01_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?[\d_]*)?)i?",
    re.ASCII,
)
_QUOTED = {
    '"': (re.compile(r'"(?:[^"\\\n]|\\[^\n])*"'), "unterminated quoted string"),
    "`": (re.compile(r"`[^`]*`"), "unterminated raw quoted string"),
    "'": (re.compile(r"'(?:[^'\\\n]|\\[^\n])*'"), "unterminated character constant"),
}


@dataclass(frozen=True, slots=True)
class Token:
    """position is the character in the source where it begins."""

    kind: Kind
    text: str
    position: int
    line: int

    def __str__(self) -> str:
        """As Go's messages name it."""
        if self.kind == "eof":
            return "EOF"
        if self.kind == "error":
            return self.text
        if self.kind in ("keyword", "dot"):
            return f"<{self.text}>"
        return quoted(self.text[:10]) + "..." if len(self.text) > 10 else quoted(self.text)


def quoted(text: str) -> str:
    """A text in double quotes, as Go's %q of plain text."""
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + shown.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'


def fail(line: int, message: str) -> TemplateSyntaxError:
    return TemplateSyntaxError(f"template: :{line}: {message}")


def is_word(character: str) -> bool:
    """Whether a character may be part of a name: a letter, a decimal digit, an underscore of any script."""
    return character == "_" or character.isalpha() or character.isdecimal()


def tokens(source: str) -> list[Token]:
    """The tokens of a template, with an error in the end where reading cannot go on."""
    return _Lexer(source).run()


class _LexError(Exception):
    pass


class _Lexer:
    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0
        self._line = 1
        self._tokens: list[Token] = []

    def run(self) -> list[Token]:
        trim = False
        try:
            while self._text(trim):
                trim = self._comment_or_action()
            self._tokens.append(Token("eof", "", self._position, self._line))
        except _LexError as error:
            self._tokens.append(Token("error", str(error), self._position, self._line))
        return self._tokens

    def _emit(self, kind: Kind, text: str) -> None:
        self._tokens.append(Token(kind, text, self._position, self._line))
        self._advance(len(text))

    def _advance(self, count: int) -> None:
        self._line += self._source.count("\n", self._position, self._position + count)
        self._position += count

    def _text(self, trim: bool) -> bool:
        """Text up to an action; False at the end of the source."""
        source = self._source
        if trim:
            blank = _SPACE.match(source, self._position)
            self._advance(len(blank[0]) if blank else 0)
        start = source.find("{{", self._position)
        end = len(source) if start < 0 else start
        text = source[self._position : end]
        trims = start >= 0 and source.startswith("-", start + 2) and source[start + 3 : start + 4] in _SPACES
        shown = text.rstrip(_BLANK) if trims else text
        if shown:
            self._emit("text", shown)
        self._advance(end - self._position)
        return start >= 0

    def _comment_or_action(self) -> bool:
        """What follows {{; whether text after it loses its blanks."""
        source = self._source
        marked = source.startswith("-", self._position + 2) and (
            source[self._position + 3 : self._position + 4] in _SPACES
        )
        begin = self._position + 2 + (2 if marked else 0)
        if source.startswith("/*", begin):
            self._advance(begin - self._position)
            end = source.find("*/", begin + 2)
            if end < 0:
                raise _LexError("unclosed comment")
            self._advance(end + 2 - self._position)
            closing = _COMMENT_CLOSE.match(source, self._position)
            if not closing:
                raise _LexError("comment ends before closing delimiter")
            self._advance(len(closing[0]))
            return closing[1] is not None
        self._tokens.append(Token("open", "{{", self._position, self._line))
        self._advance(begin - self._position)
        return self._action()

    def _action(self) -> bool:
        """The tokens up to }}; whether the text that follows loses its blanks."""
        source, depth = self._source, 0
        while True:
            if closing := _CLOSE.match(source, self._position):
                if depth:
                    raise _LexError("unclosed left paren")
                self._tokens.append(Token("close", "}}", self._position, self._line))
                self._advance(len(closing[0]))
                return closing[1] is not None
            if self._position >= len(source):
                raise _LexError("unclosed action")
            character = source[self._position]
            if blank := _SPACE.match(source, self._position):
                self._emit("space", blank[0])
            elif character in _QUOTED:
                form, message = _QUOTED[character]
                match = form.match(source, self._position)
                if not match:
                    raise _LexError(message)
                self._emit("char" if character == "'" else "string", match[0])
            elif character == ":":
                if not source.startswith(":=", self._position):
                    raise _LexError("expected :=")
                self._emit("declare", ":=")
            elif character in "=|,()":
                depth += {"(": 1, ")": -1}.get(character, 0)
                if depth < 0:
                    raise _LexError("unexpected right paren")
                self._emit(_SINGLE[character], character)
            else:
                self._word_or_number(character)

    def _word_or_number(self, character: str) -> None:
        source = self._source
        following = source[self._position + 1 : self._position + 2]
        if character == "$" or (character == "." and not ("0" <= following <= "9")):
            text = character + self._word(self._position + 1)
            kind: Kind = "variable" if character == "$" else "field" if len(text) > 1 else "dot"
            self._ended(text, kind)
        elif character in "+-." or "0" <= character <= "9":
            self._number()
        elif is_word(character):
            text = self._word(self._position)
            known: Kind = "keyword" if text in KEYWORDS else "identifier"
            self._ended(text, "bool" if text in ("true", "false") else known)
        elif character.isascii() and character.isprintable():
            self._emit("other", character)
        else:
            raise _LexError(f"unrecognized character in action: {_code_point(character)}")

    def _word(self, start: int) -> str:
        end = start
        while end < len(self._source) and is_word(self._source[end]):
            end += 1
        return self._source[start:end]

    def _ended(self, text: str, kind: Kind) -> None:
        """A name, after which only some characters may come."""
        following, end = self._after(text), self._position + len(text)
        if following and following not in _TERMINATORS + _BLANK and not self._source.startswith("}}", end):
            raise _LexError(f"bad character {_code_point(following)}")
        self._emit(kind, text)

    def _after(self, text: str) -> str:
        """The character that follows a text at the position, or none."""
        end = self._position + len(text)
        return self._source[end : end + 1]

    def _number(self) -> None:
        match = _NUMBER.match(self._source, self._position)
        text = match[0] if match else ""
        after = self._after(text)
        if after and is_word(after):
            raise _LexError(f"bad number syntax: {quoted(text + after)}")
        if after and after in "+-":  # the second half of a complex number
            match = _NUMBER.match(self._source, self._position + len(text))
            text += match[0] if match else ""
            following = self._after(text)
            if not text.endswith("i") or (following and is_word(following)):
                raise _LexError(f"bad number syntax: {quoted(text)}")
        self._emit("number", text)


_SPACES = frozenset(_BLANK)
_SINGLE: dict[str, Kind] = {"=": "assign", "|": "pipe", ",": "comma", "(": "left", ")": "right"}


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}" + (f" '{character}'" if character.isprintable() else "")


_ESCAPE = re.compile(rb"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|[0-7]{3}|.|$)", re.DOTALL)


def unquote(text: str) -> str:
    """The value of a string or character constant. Raises ValueError for an escape that Go does not have."""
    quote, body = text[0], text[1:-1]
    if quote == "`":
        return body.replace("\r", "")

    def escape(match: re.Match[bytes]) -> bytes:
        code = match[1].decode("utf-8", "surrogateescape")
        if len(code) > 1 and code[0] in "uU":
            number = int(code[1:], 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise ValueError("invalid syntax")
            return chr(number).encode()
        if len(code) == 3:
            number = int(code[1:], 16) if code[0] == "x" else int(code, 8)
            if number > 255:
                raise ValueError("invalid syntax")
            # in a character constant \xe9 is the character, in a string the byte
            return chr(number).encode() if quote == "'" else bytes([number])
        if code in _ESCAPES:
            return _ESCAPES[code].encode()
        if code in ("\\", quote):
            return code.encode()
        raise ValueError("invalid syntax")

    if "\\" not in body:
        return body
    return bytes_string(_ESCAPE.sub(escape, body.encode("utf-8", "surrogateescape")))
