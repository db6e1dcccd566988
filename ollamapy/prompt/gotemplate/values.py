"""The values that Go templates compute with: Python's where one says enough, typed ones where Go's type shows.

    nil (of interface type)     NIL          no value at all (Go's invalid reflect.Value)   None
    bool, string                bool, str    int, float64, complex128                       int, float, complex
    uint8                       Byte         slice, map, struct, pointer    Slice, Map, Struct, Pointer

A Go string is bytes: what is no UTF-8 lies in a str as the lone surrogates of Python's surrogateescape.
Inside of slices, maps and structs a nil interface is None. Methods and the String() of a type are tables of
the type, so that `%v`, field access and `range` find what they find in Go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "invalid", "interface", "bool", "int", "uint8", "float64", "complex128", "string",
    "slice", "map", "struct", "pointer", "func",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Type:
    """A Go type. name is what %T prints.

    fields are a struct's, in order, by name: the field's type, its key in JSON (None: the name) and whether
    JSON omits it when empty. A pointer to the struct has pointer_methods besides methods.
    """

    name: str
    kind: Kind
    elem: Type | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    string: Callable[[Any], str] | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    pointer_methods: Mapping[str, Method] = field(default_factory=dict)
    marshal: Callable[[Any], Any] | None = None  # what JSON shows instead of the value


@dataclass(frozen=True)
class Field:
    type: Type
    key: str | None = None
    omitempty: bool = False


@dataclass(frozen=True)
class Method:
    """A method that a template may call: it gets the receiver. failure: how Go refuses to call it."""

    call: Callable[[Any], Any]
    parameters: int = 0
    failure: str = ""


class Nil:
    """The nil of an interface type."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


NIL = Nil()


class Byte(int):
    """A uint8."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Slice:
    """items None: a nil slice. Of bytes: items is bytes. rest is what its capacity holds beyond them."""

    type: Type
    items: Sequence[Any] | None
    rest: Sequence[Any] = ()


@dataclass(slots=True, eq=False)
class Map:
    """A map with string keys; items None: a nil map."""

    type: Type
    items: dict[str, Any] | None


@dataclass(slots=True, eq=False)
class Struct:
    type: Type
    values: dict[str, Any]


@dataclass(slots=True, eq=False)
class Pointer:
    """target None: a nil pointer."""

    type: Type
    target: Any


@dataclass(slots=True, eq=False)
class Pairs:
    """A function that yields pairs, as range can walk."""

    type: Type
    pairs: list[tuple[str, Any]]


ANY = Type("interface {}", "interface")
BOOL = Type("bool", "bool")
INT = Type("int", "int")
UINT8 = Type("uint8", "uint8")
FLOAT64 = Type("float64", "float64")
COMPLEX128 = Type("complex128", "complex128")
STRING = Type("string", "string")
ANY_SLICE = Type("[]interface {}", "slice", ANY)
STRING_SLICE = Type("[]string", "slice", STRING)
STRING_MAP = Type("map[string]interface {}", "map", ANY)
BYTES = Type("[]uint8", "slice", UINT8)

_PYTHON = {bool: BOOL, int: INT, Byte: UINT8, float: FLOAT64, complex: COMPLEX128, str: STRING}
_NILLABLE = ("interface", "slice", "map", "pointer", "func")


def type_of(value: Any) -> Type:
    """The type of any value but None."""
    found = _PYTHON.get(type(value))
    if found is not None:
        return found
    if value is NIL:
        return ANY
    kind: Type = value.type
    return kind


def kind_of(value: Any) -> Kind:
    return "invalid" if value is None else type_of(value).kind


def zero(kind: Type) -> Any:
    """The zero value of a type."""
    if kind.kind == "slice":
        return Slice(kind, None)
    if kind.kind == "map":
        return Map(kind, None)
    if kind.kind == "pointer":
        return Pointer(kind, None)
    if kind.kind == "struct":
        return Struct(kind, {name: zero(member.type) for name, member in kind.fields.items()})
    plain = {"interface": NIL, "bool": False, "int": 0, "uint8": Byte(0), "float64": 0.0, "string": ""}
    return plain[kind.kind]


def element(kind: Type | None, item: Any) -> Any:
    """An item of a container as the value it is there."""
    if item is None:
        return NIL
    if kind is UINT8:
        return Byte(item)
    return item


def content(value: Any) -> Any:
    """The value inside an interface: a nil interface becomes no value."""
    return None if value is NIL else value


def indirect(value: Any) -> tuple[Any, bool]:
    """Follow pointers; whether that ended at nil, which then is the value."""
    while isinstance(value, Pointer):
        if value.target is None:
            return value, True
        value = value.target
    return value, value is NIL


def is_nil(value: Any) -> bool:
    """Whether a value is nil of its type, or none."""
    if value is None or value is NIL:
        return True
    if isinstance(value, (Slice, Map)):
        return value.items is None
    return isinstance(value, Pointer) and value.target is None


def can_be_nil(kind: Type) -> bool:
    return kind.kind in _NILLABLE


def truth(value: Any) -> bool:
    """What `if` takes for true: anything that is not empty, zero or nil; structs always are."""
    if value is None or value is NIL:
        return False
    if isinstance(value, (Slice, Map)):
        return bool(value.items)
    if isinstance(value, Pointer):
        return value.target is not None
    if isinstance(value, (Struct, Pairs)):
        return True
    return bool(value)


def from_json(value: Any) -> Any:
    """Decoded JSON as Go decodes it into an interface: numbers are float64. None stays."""
    if isinstance(value, dict):
        return Map(STRING_MAP, {key: from_json(item) for key, item in value.items()})
    if isinstance(value, list):
        return Slice(ANY_SLICE, [from_json(item) for item in value])
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def string_bytes(text: str) -> bytes:
    """The bytes of a Go string."""
    return text.encode("utf-8", "surrogateescape")


def bytes_string(data: bytes) -> str:
    """A Go string of bytes."""
    return data.decode("utf-8", "surrogateescape")


def valid_text(text: str) -> str:
    """A Go string as valid text: every byte that is no UTF-8 becomes U+FFFD."""
    if text.isascii():
        return text
    decoded = bytes_string(string_bytes(text))
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in decoded)
