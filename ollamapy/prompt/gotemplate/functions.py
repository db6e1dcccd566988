"""Functions of Go templates, with Go's names, truth, order and formatting of values.

Go values are Python's: string str, int and float64 int and float, bool, nil None, slices list, maps dict
with string keys, structs Record.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

_EXPONENT_FROM = 6  # powers of ten from which Go prints a float64 with an exponent


class FunctionError(Exception):
    """A function refused its arguments."""


class Record:
    """A struct: a field that it lacks is an error, where a map's missing key is nil.

    plain is what json writes, a list of pairs for an object in this order; text, if given, is what printing
    writes.
    """

    def __init__(self, fields: dict[str, Any], plain: Any = None, text: str | None = None) -> None:
        self.fields = fields
        self.plain = fields if plain is None else plain
        self.text = text


def truth(value: Any) -> bool:
    """What `if` takes for true: anything that is not Go's zero value; structs always are."""
    return True if isinstance(value, Record) else bool(value)


def show(value: Any) -> str:
    """A value as Go's %v prints it."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return show_float(value)
    if isinstance(value, list):
        return "[" + " ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, Record):
        if value.text is not None:
            return value.text
        return "{" + " ".join(show(item) for item in value.fields.values()) + "}"
    return str(value)


def show_float(value: float) -> str:
    """A float64 as Go's %v: the shortest digits that read back, with an exponent below 1e-4 and from 1e6."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(repr(value), "NaN")
    number = Decimal(repr(value)).normalize()
    if value and not -4 <= number.adjusted() < _EXPONENT_FROM:
        mantissa = f"{number.scaleb(-number.adjusted()):f}"
        return f"{mantissa}e{number.adjusted():+03d}"
    return f"{number:f}"


def to_json(value: Any) -> str:
    """JSON as Go writes it: compact, sorted keys, with <, > and & escaped."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), sort_keys=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        if isinstance(value.plain, list):
            return {name: _plain(item) for name, item in value.plain}
        return _plain(value.plain)
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {int: "int", float: "float", str: "string"}.get(type(value), "other")


def _equal(*arguments: Any) -> bool:
    """eq a b c …: whether a equals any of the others."""
    first, *others = arguments
    if not others:
        raise FunctionError("error calling eq: missing argument for comparison")
    for other in others:
        if first is None or other is None:
            if first is other:
                return True
            continue
        kinds = {_kind(first), _kind(other)}
        if "other" in kinds:
            raise FunctionError("error calling eq: non-comparable type")
        if len(kinds) > 1:
            raise FunctionError("error calling eq: incompatible types for comparison")
        if first == other:
            return True
    return False


def _less(name: str, a: Any, b: Any) -> bool:
    kinds = {_kind(a), _kind(b)}
    if len(kinds) > 1:
        raise FunctionError(f"error calling {name}: incompatible types for comparison")
    if kinds & {"bool", "other"}:
        raise FunctionError(f"error calling {name}: invalid type for comparison")
    return bool(a < b)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    kind = "nil pointer" if value is None else f"len of type {_kind(value)}"
    raise FunctionError(f"error calling len: {kind}")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key) if isinstance(key, str) else None
        elif isinstance(value, (list, str)) and isinstance(key, int) and not isinstance(key, bool):
            items: Any = value.encode() if isinstance(value, str) else value
            if not 0 <= key < len(items):
                raise FunctionError(f"error calling index: reflect: slice index out of range: {key}")
            value = items[key]
        else:
            raise FunctionError(f"error calling index: can't index item of type {_kind(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (list, str)) or not all(type(bound) is int for bound in bounds):
        raise FunctionError("error calling slice: can't slice this item")
    items: Any = value.encode() if isinstance(value, str) else value
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(items)
    if not 0 <= start <= end <= len(items):
        raise FunctionError(f"error calling slice: invalid slice index: {start} > {end}")
    cut = items[start:end]
    return cut.decode("utf-8", "replace") if isinstance(value, str) else cut


def _print(*values: Any) -> str:
    """Blanks go between operands when neither is a string."""
    text = ""
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(values[i - 1], str):
            text += " "
        text += show(value)
    return text


_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d+)?(?:\.(?P<precision>\d+))?(?P<verb>[a-zA-Z%])?")


def _printf(form: Any, *values: Any) -> str:
    if not isinstance(form, str):
        raise FunctionError(f"wrong type for value; expected string; got {_kind(form)}")
    rest = list(values)

    def write(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if verb is None:
            return "%!(NOVERB)"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _pad(_format(verb, match, rest.pop(0)), match)

    text = _VERB.sub(write, form)
    if rest:
        text += "%!(EXTRA " + ", ".join(f"{_type(value)}={show(value)}" for value in rest) + ")"
    return text


def _type(value: Any) -> str:
    if value is None:
        return "<nil>"
    return {"float": "float64", "other": "map" if isinstance(value, dict) else "slice"}.get(
        _kind(value), _kind(value)
    )


def _format(verb: str, match: re.Match[str], value: Any) -> str:
    kind = _kind(value)
    precision = match["precision"]
    if verb == "v":
        return show(value)
    if verb == "T":
        return _type(value)
    if verb == "t" and kind == "bool":
        return show(value)
    if verb in "sq" and (kind == "string" or isinstance(value, Record)):
        text = show(value)
        text = text[: int(precision)] if precision else text
        return json.dumps(text, ensure_ascii=False) if verb == "q" else text
    if kind == "int" and verb in "dxXobcq":
        sign = "+" if "+" in match["flags"] and verb == "d" else ""
        return chr(value) if verb == "c" else f"'{chr(value)}'" if verb == "q" else format(value, sign + verb)
    if kind == "float" and verb in "feEgG":
        return show_float(value) if verb in "gG" and precision is None else f"{value:.{precision or 6}{verb}}"
    if isinstance(value, list) and verb in "sd":
        return "[" + " ".join(_format(verb, match, item) for item in value) + "]"
    return f"%!{verb}({show(value)})" if value is None else f"%!{verb}({_type(value)}={show(value)})"


def _pad(text: str, match: re.Match[str]) -> str:
    width = min(int(match["width"] or 0), 1000)
    if "-" in match["flags"]:
        return text.ljust(width)
    return text.zfill(width) if "0" in match["flags"] else text.rjust(width)


def _today(*form: object) -> str:
    """The date; the form that a template may ask for is ignored, as Ollama does."""
    return datetime.date.today().isoformat()


# and, or are run by the executor, which evaluates their arguments one by one
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: next((v for v in values if not truth(v)), values[-1]),
    "or": lambda *values: next((v for v in values if truth(v)), values[-1]),
    "not": lambda value: not truth(value),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "printf": _printf,
    "eq": _equal,
    "ne": lambda a, b: not _equal(a, b),
    "lt": lambda a, b: _less("lt", a, b),
    "le": lambda a, b: _less("le", a, b) or _equal(a, b),
    "gt": lambda a, b: not _less("gt", a, b) and not _equal(a, b),
    "ge": lambda a, b: not _less("ge", a, b),
    "json": to_json,
    "currentDate": _today,
}
