"""Breaks streamed text at the terminal's width, at blanks, without waiting for the end of a line."""

from __future__ import annotations

import shutil
import sys
import unicodedata

from ollamapy.cli.output import write_text


def width_of(character: str) -> int:
    """Columns that a character takes on a terminal."""
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


class Wrapper:
    """Writes text piece by piece. A word that has begun and does not fit moves to the next line whole."""

    def __init__(self, columns: int) -> None:
        """columns 0 writes everything as it comes."""
        self._columns = columns
        self._column = 0
        self._word: list[str] = []  # of the word at the end of the line, already written
        self._word_width = 0

    def feed(self, text: str) -> str:
        """What to write for the next piece of text."""
        if not self._columns:
            return text
        out: list[str] = []
        for character in text:
            if character == "\n":
                out.append("\n")
                self._column, self._word, self._word_width = 0, [], 0
                continue
            width = width_of(character)
            if self._column + width > self._columns:
                if character == " ":  # the line break stands for it
                    out.append("\n")
                    self._column, self._word, self._word_width = 0, [], 0
                    continue
                if 0 < self._word_width < self._column:
                    # take the word back and begin the next line with it
                    out.append(f"\x1b[{self._word_width}D\x1b[K\n" + "".join(self._word))
                    self._column = self._word_width
                else:
                    out.append("\n")
                    self._column, self._word, self._word_width = 0, [], 0
            out.append(character)
            self._column += width
            if character.isspace():
                self._word, self._word_width = [], 0
            else:
                self._word.append(character)
                self._word_width += width
        return "".join(out)


class Writer:
    """Model text on standard output: wrapped on a terminal, as it is elsewhere."""

    def __init__(self, wrap: bool) -> None:
        terminal = sys.stdout.isatty()
        self._wrapper = Wrapper(shutil.get_terminal_size().columns if wrap and terminal else 0)

    def write(self, text: str) -> None:
        write_text(text, self._wrapper.feed)
