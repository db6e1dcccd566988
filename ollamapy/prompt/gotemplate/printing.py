"""Sprint, Sprintln and Sprintf of Go's package fmt, over the values of templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ollamapy.prompt.gotemplate.formatting import (
    Flags,
    format_bytes_text,
    format_character,
    format_code_point,
    format_float,
    format_hex,
    format_integer,
    format_quoted,
    format_quoted_character,
    format_text,
    pad,
)
from ollamapy.prompt.gotemplate.values import (
    ANY_SLICE,
    NIL,
    STRING_MAP,
    UINT8,
    Byte,
    Map,
    Pairs,
    Pointer,
    Slice,
    Struct,
    bytes_string,
    element,
    kind_of,
    string_bytes,
    type_of,
)

_LARGEST = 1_000_000  # a width or precision beyond is none
_MAX_DEPTH = 200
_ADDRESS = 0xC000000000  # where Go's heap begins: what a nested pointer prints cannot be said

Charge = Callable[[int], None]
"""Told how many characters are about to be written; raises when they are too many."""


def sprint(values: Sequence[Any], charge: Charge) -> str:
    """Blanks go between operands when neither is a string."""
    printer = Printer(charge)
    was_string = True
    for value in values:
        is_string = isinstance(value, str)
        if printer.written and not is_string and not was_string:
            printer.write(" ")
        printer.written = True
        printer.argument(value, "v")
        was_string = is_string
    return printer.text()


def show(value: Any) -> str:
    """Decoded JSON as %v prints it; integers as they are."""
    return sprint([_typed(value)], lambda characters: None)


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return Map(STRING_MAP, {key: _typed(item) for key, item in value.items()})
    if isinstance(value, list):
        return Slice(ANY_SLICE, [_typed(item) for item in value])
    return value


def sprintln(values: Sequence[Any], charge: Charge) -> str:
    printer = Printer(charge)
    for i, value in enumerate(values):
        printer.write(" " if i else "")
        printer.argument(value, "v")
    return printer.text() + "\n"


def sprintf(form: str, values: Sequence[Any], charge: Charge) -> str:
    return _Format(form, values, charge).run()


class Printer:
    """Writes values with the flags of one directive."""

    def __init__(self, charge: Charge) -> None:
        self.flags = Flags()
        self.written = False
        self._charge = charge
        self._parts: list[str] = []
        self._refusing = False  # in the text of a refusal String() is not asked

    def text(self) -> str:
        return "".join(self._parts)

    def write(self, text: str) -> None:
        self._charge(len(text))
        self._parts.append(text)

    def refuse(self, verb: str, value: Any) -> None:
        """%!d(string=x): a verb that is not for this value."""
        outer, self._refusing = self._refusing, True
        if value is None or value is NIL:
            self.write(f"%!{verb}(<nil>)")
        else:
            self.write(f"%!{verb}({type_of(value).name}=")
            self.value(value, "v", 0)
            self.write(")")
        self._refusing = outer

    def argument(self, value: Any, verb: str) -> None:
        """An operand."""
        self._charge(self.flags.width or 0)
        self._charge(self.flags.precision or 0)
        if value is None or value is NIL:
            if verb in "Tv":
                self.write(pad("<nil>", self.flags))
            else:
                self.refuse(verb, None)
        elif verb == "T":
            self.write(format_text(type_of(value).name, self.flags))
        elif verb == "p":
            self._pointer(value, verb)
        elif not self._by_method(value, verb):
            self.value(value, verb, 0)

    def _by_method(self, value: Any, verb: str) -> bool:
        """Write what String() of a value says, if it has one and the verb is for texts."""
        if self._refusing:
            return False
        if verb == "w":
            self.refuse(verb, value)
            return True
        if isinstance(value, Pointer):
            if value.target is None:
                return False
            value = value.target
        string = None if isinstance(value, (str, bool, int, float, complex)) else type_of(value).string
        if string is None or self.flags.sharp_v or verb not in "vsxXq":
            return False
        self._string(string(value), verb, value)
        return True

    def _string(self, text: str, verb: str, value: Any) -> None:
        self._charge(len(text))
        if verb == "v":
            self.write(
                format_quoted(text, self.flags) if self.flags.sharp_v else format_text(text, self.flags)
            )
        elif verb == "s":
            self.write(format_text(text, self.flags))
        elif verb in "xX":
            self.write(format_hex(string_bytes(text), verb, self.flags))
        elif verb == "q":
            self.write(format_quoted(text, self.flags))
        else:
            self.refuse(verb, value)

    def value(self, value: Any, verb: str, depth: int) -> None:
        """A value by its kind."""
        if depth > _MAX_DEPTH:
            raise RecursionError
        if depth and value is not None and value is not NIL and self._by_method(value, verb):
            return
        if value is None or value is NIL:
            if self.flags.sharp_v:
                self.write("interface {}(nil)")
            else:
                self.write("<nil>")  # whatever the verb: it is an empty interface
        elif isinstance(value, bool):
            if verb in "tv":
                self.write(pad("true" if value else "false", self.flags))
            else:
                self.refuse(verb, value)
        elif isinstance(value, str):
            self._string(value, verb, value)
        elif isinstance(value, int):
            self._integer(value, verb)
        elif isinstance(value, float):
            self._float(value, verb, value)
        elif isinstance(value, complex):
            self._complex(value, verb)
        elif isinstance(value, Slice):
            self._slice(value, verb, depth)
        elif isinstance(value, Map):
            self._map(value, verb, depth)
        elif isinstance(value, Struct):
            self._struct(value, verb, depth)
        elif (
            isinstance(value, Pointer) and depth == 0 and kind_of(value.target) in ("slice", "map", "struct")
        ):
            self.write("&")
            self.value(value.target, verb, 1)
        else:
            self._pointer(value, verb)

    def _integer(self, value: int, verb: str) -> None:
        flags = self.flags
        if verb == "v" and flags.sharp_v and isinstance(value, Byte):
            self.write(pad(f"0x{int(value):x}", flags))
        elif verb in "vd":
            self.write(format_integer(value, 10, "d", flags))
        elif verb in "boOxX":
            base = {"b": 2, "x": 16, "X": 16}.get(verb, 8)
            self.write(format_integer(value, base, verb, flags))
        elif verb == "c":
            self.write(format_character(value, flags))
        elif verb == "q":
            self.write(format_quoted_character(value, flags))
        elif verb == "U":
            self.write(format_code_point(value, flags))
        else:
            self.refuse(verb, value)

    def _float(self, value: float, verb: str, whole: Any) -> None:
        if verb == "v":
            self.write(format_float(value, "g", None, self.flags))
        elif verb in "bgGxX":
            self.write(format_float(value, verb, None, self.flags))
        elif verb in "feEF":
            self.write(format_float(value, verb.replace("F", "f"), 6, self.flags))
        else:
            self.refuse(verb, whole)

    def _complex(self, value: complex, verb: str) -> None:
        if verb not in "vbgGxXfFeE":
            self.refuse(verb, value)
            return
        self.write("(")
        self._float(value.real, verb, value)
        plus, self.flags.plus = self.flags.plus, True
        self._float(value.imag, verb, value)
        self.write("i)")
        self.flags.plus = plus

    def _slice(self, value: Slice, verb: str, depth: int) -> None:
        items = value.items or ()
        if value.type.elem is UINT8 and verb in "sqxX":
            data = bytes(items)
            if verb == "q":
                self.write(format_quoted(bytes_string(data), self.flags))
            elif verb == "s":
                self.write(format_bytes_text(data, self.flags))
            else:
                self.write(format_hex(data, verb, self.flags))
            return
        sharp = self.flags.sharp_v
        if sharp:
            self.write(value.type.name)
            if value.items is None:
                self.write("(nil)")
                return
        self.write("{" if sharp else "[")
        for i, item in enumerate(items):
            self.write((", " if sharp else " ") if i else "")
            self.value(element(value.type.elem, item), verb, depth + 1)
        self.write("}" if sharp else "]")

    def _map(self, value: Map, verb: str, depth: int) -> None:
        sharp = self.flags.sharp_v
        if sharp:
            self.write(value.type.name)
            if value.items is None:
                self.write("(nil)")
                return
        self.write("{" if sharp else "map[")
        items = value.items or {}
        for i, key in enumerate(sorted(items)):
            self.write((", " if sharp else " ") if i else "")
            self.value(key, verb, depth + 1)
            self.write(":")
            self.value(items[key], verb, depth + 1)
        self.write("}" if sharp else "]")

    def _struct(self, value: Struct, verb: str, depth: int) -> None:
        flags = self.flags
        self.write(value.type.name + "{" if flags.sharp_v else "{")
        for i, name in enumerate(value.type.fields):
            self.write((", " if flags.sharp_v else " ") if i else "")
            if flags.plus_v or flags.sharp_v:
                self.write(f"{name}:")
            self.value(value.values[name], verb, depth + 1)
        self.write("}")

    def _pointer(self, value: Any, verb: str) -> None:
        if not isinstance(value, (Pointer, Slice, Map, Pairs)):
            self.refuse(verb, value)
            return
        address = 0 if isinstance(value, Pointer) and value.target is None else _ADDRESS
        flags = self.flags
        if verb == "v" and flags.sharp_v:
            self.write(f"({value.type.name})({f'0x{address:x}' if address else 'nil'})")
        elif verb == "v" and not address:
            self.write(pad("<nil>", flags))
        elif verb in "vp":
            self.write(pad(format(address, "x") if flags.sharp else f"0x{address:x}", flags))
        elif verb in "bodxX":
            self._integer(address, verb)
        else:
            self.refuse(verb, value)


class _Format:
    """A format string, its operands, and how far both are used."""

    def __init__(self, form: str, values: Sequence[Any], charge: Charge) -> None:
        self._form = form
        self._values = values
        self._printer = Printer(charge)
        self._at = 0
        self._next = 0  # operand
        self._reordered = False
        self._good_index = True

    def run(self) -> str:
        form, printer = self._form, self._printer
        while self._at < len(form):
            start = form.find("%", self._at)
            if start < 0:
                printer.write(form[self._at :])
                break
            printer.write(form[self._at : start])
            self._at = start + 1
            self._good_index = True
            if not self._directive():
                break
        if not self._reordered and self._next < len(self._values):
            self._extra()
        return printer.text()

    def _directive(self) -> bool:
        """What follows a %; False where the verb is missing."""
        form, printer, flags = self._form, self._printer, Flags()
        printer.flags = flags
        names = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}
        while self._at < len(form) and form[self._at] in names:
            setattr(flags, names[form[self._at]], True)
            self._at += 1
        after_index = self._index()
        if self._star():
            width = self._from_argument()
            if width is None:
                printer.write("%!(BADWIDTH)")
            elif width < 0:
                width, flags.minus, flags.zero = -width, True, False
            flags.width = width
            after_index = False
        else:
            flags.width = self._digits()
            if after_index and flags.width is not None:
                self._good_index = False
        if form.startswith(".", self._at) and self._at + 1 < len(form):
            self._at += 1
            if after_index:
                self._good_index = False
            after_index = self._index()
            if self._star():
                flags.precision = self._from_argument()
                if flags.precision is None or flags.precision < 0:
                    flags.precision = None
                    printer.write("%!(BADPREC)")
                after_index = False
            else:
                flags.precision = self._digits() or 0
        if not after_index:
            self._index()
        if self._at >= len(form):
            printer.write("%!(NOVERB)")
            return False
        verb = form[self._at]
        self._at += 1
        if verb == "%":
            printer.write("%")
        elif not self._good_index:
            printer.write(f"%!{verb}(BADINDEX)")
        elif self._next >= len(self._values):
            printer.write(f"%!{verb}(MISSING)")
        else:
            if verb in "vw":
                flags.sharp_v, flags.sharp = flags.sharp, False
                flags.plus_v, flags.plus = flags.plus, False
            self._next += 1
            printer.argument(self._values[self._next - 1], verb)
        return True

    def _star(self) -> bool:
        if self._form.startswith("*", self._at):
            self._at += 1
            return True
        return False

    def _from_argument(self) -> int | None:
        """A width or precision that an operand gives."""
        if self._next >= len(self._values):
            return None
        value = self._values[self._next]
        self._next += 1
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
            return None
        return int(value)

    def _digits(self) -> int | None:
        start = self._at
        number = 0
        while self._at < len(self._form) and "0" <= self._form[self._at] <= "9":
            if number > _LARGEST:
                self._at = len(self._form)
                return None
            number = number * 10 + int(self._form[self._at])
            self._at += 1
        return number if self._at > start else None

    def _index(self) -> bool:
        """[n], the operand to use next; whether there was one."""
        form = self._form
        if not form.startswith("[", self._at):
            return False
        self._reordered = True
        close = form.find("]", self._at + 1)
        if close < 0:
            self._good_index = False
            self._at += 1
            return False
        digits = form[self._at + 1 : close]
        self._at = close + 1
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 8):
            self._good_index = False
            return False
        if 0 <= int(digits) - 1 < len(self._values):
            self._next = int(digits) - 1
        else:
            self._good_index = False
        return True

    def _extra(self) -> None:
        printer = self._printer
        printer.flags = Flags()
        printer.write("%!(EXTRA ")
        for i, value in enumerate(self._values[self._next :]):
            printer.write(", " if i else "")
            if value is None or value is NIL:
                printer.write("<nil>")
            else:
                printer.write(f"{type_of(value).name}=")
                printer.argument(value, "v")
        printer.write(")")
