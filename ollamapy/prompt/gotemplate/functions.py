"""The functions of Go templates: text/template's own and Ollama's."""

from __future__ import annotations

import datetime
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ollamapy.prompt.gotemplate.encoding import EncodingError, to_json
from ollamapy.prompt.gotemplate.printing import Charge, sprint, sprintf, sprintln
from ollamapy.prompt.gotemplate.values import (
    Byte,
    Map,
    Pointer,
    Slice,
    bytes_string,
    content,
    element,
    indirect,
    is_nil,
    kind_of,
    string_bytes,
    truth,
    type_of,
    zero,
)

Parameter = Literal["value", "any", "string"]
"""what a function asks of an argument: anything, even none; anything, nil instead of none; a text"""


class FunctionError(Exception):
    """A function refused its arguments."""


@dataclass(frozen=True)
class Builtin:
    """call gets the arguments, and tells charge how much it writes. own: Ollama's, not Go's."""

    call: Callable[[list[Any], Charge], Any]
    fixed: tuple[Parameter, ...]
    variadic: Parameter | None = None
    own: bool = False


def _not(arguments: list[Any], charge: Charge) -> bool:
    return not truth(arguments[0])


# ---------------------------------------------------------------- comparison

_BASIC = {
    "bool": "bool", "int": "int", "uint8": "uint", "float64": "float", "complex128": "complex",
    "string": "string",
}  # fmt: skip


def _equal(arguments: list[Any], charge: Charge) -> bool:
    """eq a b c …: whether a equals any of the others."""
    first = content(arguments[0])
    if len(arguments) < 2:
        raise FunctionError("missing argument for comparison")
    basic = _BASIC.get(kind_of(first))
    for other in arguments[1:]:
        other = content(other)
        kind = _BASIC.get(kind_of(other))
        if basic != kind:
            if {basic, kind} == {"int", "uint"}:
                same = first == other
            elif first is not None and other is not None:
                names = f"{type_of(first).name} and {type_of(other).name}"
                raise FunctionError(f"incompatible types for comparison: {names}")
            else:
                same = False
        elif basic is None:
            same = _same_reference(first, other)
        else:
            charge(len(first) if isinstance(first, str) else 0)
            same = bool(first == other)
        if same:
            return True
    return False


def _same_reference(first: Any, other: Any) -> bool:
    """Equality of what is neither number, text nor bool: Go compares pointers, and anything with nil."""
    if first is not None and other is not None and kind_of(first) != kind_of(other):
        names = f"{type_of(first).name}, {type_of(other).name}"
        raise FunctionError(f"non-comparable types {names}")
    if is_nil(first) or is_nil(other):
        return is_nil(first) == is_nil(other)
    if not isinstance(other, Pointer):
        raise FunctionError(f"non-comparable type {type_of(other).name}")
    return bool(first.target is other.target)


def _ordered(arguments: list[Any], charge: Charge) -> bool:
    """Whether the first is less than the second."""
    first, other = content(arguments[0]), content(arguments[1])
    kinds = _BASIC.get(kind_of(first)), _BASIC.get(kind_of(other))
    if None in kinds:
        raise FunctionError("invalid type for comparison")
    if kinds[0] != kinds[1] and set(kinds) != {"int", "uint"}:
        names = f"{type_of(first).name} and {type_of(other).name}"
        raise FunctionError(f"incompatible types for comparison: {names}")
    if kinds[0] in ("bool", "complex"):
        raise FunctionError("invalid type for comparison")
    if isinstance(first, str):
        charge(len(first) + len(other))
        return string_bytes(first) < string_bytes(other)
    return bool(first < other)


def _less_or_equal(arguments: list[Any], charge: Charge) -> bool:
    return _ordered(arguments, charge) or _equal(arguments, charge)


# ---------------------------------------------------------------- containers


def _position(index: Any, capacity: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int):
        shown = "nil" if index is None else f"type {type_of(index).name}"
        raise FunctionError(f"cannot index slice/array with {shown}")
    if not 0 <= index <= capacity:
        raise FunctionError(f"index out of range: {int(index)}")
    return int(index)


def _index(arguments: list[Any], charge: Charge) -> Any:
    item = content(arguments[0])
    if item is None:
        raise FunctionError("index of untyped nil")
    for key in arguments[1:]:
        key = content(key)
        item, missing = indirect(item)
        if missing:
            raise FunctionError("index of nil pointer")
        if isinstance(item, (Slice, str)):
            text = isinstance(item, str)
            charge(len(item) if isinstance(item, str) else 0)
            items: Any = string_bytes(item) if isinstance(item, str) else (item.items or ())
            at = _position(key, len(items))
            if at == len(items):
                what = "string" if text else "slice"
                raise FunctionError(f"reflect: {what} index out of range")
            item = Byte(items[at]) if isinstance(item, str) else element(item.type.elem, items[at])
        elif isinstance(item, Map):
            if key is None:
                raise FunctionError("value is nil; should be of type string")
            if not isinstance(key, str):
                raise FunctionError(f"value has type {type_of(key).name}; should be string")
            items = item.items or {}
            kind = item.type.elem
            assert kind is not None
            item = element(kind, items[key]) if key in items else zero(kind)
        else:
            raise FunctionError(f"can't index item of type {type_of(item).name}")
    return item


def _slice(arguments: list[Any], charge: Charge) -> Any:
    item = content(arguments[0])
    if item is None:
        raise FunctionError("slice of untyped nil")
    item, missing = indirect(item)
    if missing:
        raise FunctionError("slice of nil pointer")
    bounds = [content(bound) for bound in arguments[1:]]
    if len(bounds) > 3:
        raise FunctionError(f"too many slice indexes: {len(bounds)}")
    if isinstance(item, str):
        if len(bounds) == 3:
            raise FunctionError("cannot 3-index slice a string")
        charge(len(item))
        data = string_bytes(item)
        start, end, _ = _bounds(bounds, len(data), len(data))
        return bytes_string(data[start:end])
    if not isinstance(item, Slice):
        raise FunctionError(f"can't slice item of type {type_of(item).name}")
    items = item.items or ()
    start, end, limit = _bounds(bounds, len(items), len(items) + len(item.rest))
    charge(len(items) + len(item.rest))
    every = items if not item.rest else [*items, *item.rest]
    if item.items is None:
        return item
    return Slice(item.type, every[start:end], every[end:limit])


def _bounds(bounds: list[Any], length: int, capacity: int) -> tuple[int, int, int]:
    found = [0, length, capacity]
    for i, bound in enumerate(bounds):
        found[i] = _position(bound, capacity)
    for low, high in ((found[0], found[1]), (found[1], found[2])):
        if low > high:
            raise FunctionError(f"invalid slice index: {low} > {high}")
    return found[0], found[1], found[2]


def _length(arguments: list[Any], charge: Charge) -> int:
    item, missing = indirect(arguments[0])
    if missing:
        raise FunctionError("len of nil pointer")
    if isinstance(item, str):
        charge(0 if item.isascii() else len(item))
        return len(item) if item.isascii() else len(string_bytes(item))
    if isinstance(item, (Slice, Map)):
        return len(item.items or ())
    if item is None:
        raise FunctionError("reflect: call of reflect.Value.Type on zero Value")
    raise FunctionError(f"len of type {type_of(item).name}")


def _call(arguments: list[Any], charge: Charge) -> Any:
    """No value that a template can reach is a function with fitting results."""
    function = content(arguments[0])
    if function is None:
        raise FunctionError("call of nil")
    raise FunctionError(f"non-function of type {type_of(function).name}")


# ---------------------------------------------------------------- text


def printable(value: Any) -> Any:
    """A value as an action prints it: pointers are followed, none is <no value>."""
    if isinstance(value, Pointer):
        value, _ = indirect(value)
    return "<no value>" if value is None else value


def _plain_text(arguments: list[Any], charge: Charge) -> str:
    if len(arguments) == 1 and isinstance(arguments[0], str):
        return arguments[0]
    return sprint([printable(content(argument)) for argument in arguments], charge)


_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"},
)
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _html(arguments: list[Any], charge: Charge) -> str:
    text = _plain_text(arguments, charge)
    charge(6 * len(text))
    return text.translate(_HTML)


def _js_character(character: str) -> str:
    if character in _JS:
        return _JS[character]
    code = ord(character)
    if code < 0x20:
        return f"\\u00{code:02X}"
    if code < 0x80 or character.isprintable():
        return character
    # a byte that is no UTF-8 is written as it is: Go takes the replacement character for printable
    return character if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04X}"


def _js(arguments: list[Any], charge: Charge) -> str:
    text = _plain_text(arguments, charge)
    charge(6 * len(text))
    return "".join(map(_js_character, text))


def _urlquery(arguments: list[Any], charge: Charge) -> str:
    text = _plain_text(arguments, charge)
    charge(9 * len(text))
    return urllib.parse.quote_plus(string_bytes(text), safe="")


def _printf(arguments: list[Any], charge: Charge) -> str:
    return sprintf(arguments[0], arguments[1:], charge)


# ---------------------------------------------------------------- Ollama's own


def _json(arguments: list[Any], charge: Charge) -> str:
    try:
        return to_json(arguments[0])
    except EncodingError:
        return ""


def _day(before: int) -> Callable[[list[Any], Charge], str]:
    """The local date some days ago; a form that a template may ask for is ignored, as Ollama does."""

    def day(arguments: list[Any], charge: Charge) -> str:
        return (datetime.date.today() - datetime.timedelta(days=before)).isoformat()

    return day


def _typescript(arguments: list[Any], charge: Charge) -> str:
    """The TypeScript type of a tool's property."""
    value = content(arguments[0])
    if isinstance(value, Pointer):
        value = value.target
    method = None if value is None else type_of(value).methods.get("ToTypeScriptType")
    return "any" if method is None else str(method.call(value))


FUNCTIONS: dict[str, Builtin] = {
    # and, or are run by the executor, which evaluates their arguments one by one
    "and": Builtin(_not, ("value",), "value"),
    "or": Builtin(_not, ("value",), "value"),
    "not": Builtin(_not, ("value",)),
    "call": Builtin(_call, ("value",), "value"),
    "html": Builtin(_html, (), "any"),
    "index": Builtin(_index, ("value",), "value"),
    "slice": Builtin(_slice, ("value",), "value"),
    "js": Builtin(_js, (), "any"),
    "len": Builtin(_length, ("value",)),
    "print": Builtin(sprint, (), "any"),
    "printf": Builtin(_printf, ("string",), "any"),
    "println": Builtin(sprintln, (), "any"),
    "urlquery": Builtin(_urlquery, (), "any"),
    "eq": Builtin(_equal, ("value",), "value"),
    "ne": Builtin(lambda a, charge: not _equal(a, charge), ("value", "value")),
    "lt": Builtin(_ordered, ("value", "value")),
    "le": Builtin(_less_or_equal, ("value", "value")),
    "gt": Builtin(lambda a, charge: not _less_or_equal(a, charge), ("value", "value")),
    "ge": Builtin(lambda a, charge: not _ordered(a, charge), ("value", "value")),
    "json": Builtin(_json, ("any",), own=True),
    "currentDate": Builtin(_day(0), (), "string", own=True),
    "yesterdayDate": Builtin(_day(1), (), "string", own=True),
    "toTypeScriptType": Builtin(_typescript, ("any",), own=True),
}
