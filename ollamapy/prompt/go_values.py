"""Values as Go decodes, encodes and trims them, which is what Ollama's own prompts are made of.

JSON that Go decodes without a type has float64 numbers and unordered objects, which it writes with sorted
keys.
"""

from __future__ import annotations

import json
from typing import Any

from ollamapy.prompt.gotemplate.formatting import json_float
from ollamapy.types import RequestError

SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's White_Space; Python's own strip() takes the ASCII separators \\x1c to \\x1f too"""

_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "\u2028\u2029"}
_HTML = _ESCAPED | {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


class OrderedMap(dict[str, Any]):
    """An object that keeps its order. Ollama's type for it encodes itself, with HTML escapes whatever the
    encoder around it does."""


def trim(text: str) -> str:
    """strings.TrimSpace."""
    return text.strip(SPACE)


def generic(value: Any) -> Any:
    """Decoded JSON as Go has it in an `any`. Raises RequestError for a number beyond float64."""
    if isinstance(value, dict):
        return {key: generic(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [generic(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RequestError("a number in the request is out of range") from None
    return value


def to_json(value: Any, *, html: bool = True, spaces: bool = False, indent: int = 0) -> str:
    """JSON as encoding/json writes it: objects in the order they have here.

    html: escape <, > and &. spaces: one after each colon and comma. indent: blanks per level, one item per
    line.
    """
    return _write(value, html, (": ", ", ") if spaces else (":", ","), indent, "\n")


def _write(value: Any, html: bool, marks: tuple[str, str], indent: int, line: str) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_HTML if html else _ESCAPED)
    if isinstance(value, float):
        return json_float(value)
    if not isinstance(value, (dict, list)):
        return json.dumps(value)
    html = html or isinstance(value, OrderedMap)
    colon, comma = (": ", ",") if indent else marks
    inner = line + " " * indent
    if isinstance(value, dict):
        items = [
            _write(key, html, marks, indent, inner) + colon + _write(item, html, marks, indent, inner)
            for key, item in value.items()
        ]
    else:
        items = [_write(item, html, marks, indent, inner) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if not indent or not items:
        return opening + comma.join(items) + closing
    return opening + inner + (comma + inner).join(items) + line + closing
