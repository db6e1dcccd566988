"""JSON as Go's encoding/json writes it: compact, maps sorted, structs in their order, HTML's characters
escaped."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from ollamapy.prompt.gotemplate.formatting import json_float
from ollamapy.prompt.gotemplate.values import NIL, UINT8, Map, Pointer, Slice, Struct, type_of

_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_ESCAPED.update({code: "\\ufffd" for code in range(0xD800, 0xE000)})


class EncodingError(Exception):
    """A value that JSON cannot say."""


def to_json(value: Any) -> str:
    """The JSON of a value. Raises EncodingError, RecursionError."""
    parts: list[str] = []
    _encode(value, parts)
    return "".join(parts)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPED)


def _encode(value: Any, parts: list[str]) -> None:
    if value is None or value is NIL:
        parts.append("null")
    elif isinstance(value, str):
        parts.append(_text(value))
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, int):
        parts.append(str(int(value)))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise EncodingError(f"unsupported value: {value}")
        parts.append(json_float(value))
    elif isinstance(value, list):
        _object(value, parts)
    elif not isinstance(value, complex) and type_of(value).marshal is not None:
        marshal = type_of(value).marshal
        assert marshal is not None
        _encode(marshal(value), parts)
    elif isinstance(value, Slice):
        _slice(value, parts)
    elif isinstance(value, Map):
        if value.items is None:
            parts.append("null")
        else:
            _object(sorted(value.items.items()), parts)
    elif isinstance(value, Struct):
        members = []
        for name, member in value.type.fields.items():
            item = value.values[name]
            if not (member.omitempty and is_empty(item)):
                members.append((member.key or name, item))
        _object(members, parts)
    elif isinstance(value, Pointer):
        _encode(value.target, parts)
    else:
        raise EncodingError(f"unsupported type: {type_of(value).name}")


def _slice(value: Slice, parts: list[str]) -> None:
    if value.items is None:
        parts.append("null")
    elif value.type.elem is UINT8:
        parts.append(f'"{base64.b64encode(bytes(value.items)).decode()}"')
    else:
        parts.append("[")
        for i, item in enumerate(value.items):
            parts.append("," if i else "")
            _encode(item, parts)
        parts.append("]")


def _object(members: list[tuple[str, Any]], parts: list[str]) -> None:
    parts.append("{")
    for i, (key, item) in enumerate(members):
        parts.append(("," if i else "") + _text(key) + ":")
        _encode(item, parts)
    parts.append("}")


def is_empty(value: Any) -> bool:
    """What omitempty leaves out."""
    if value is None or value is NIL or value is False or value == "":
        return True
    if isinstance(value, (Slice, Map)):
        return not value.items
    if isinstance(value, Pointer):
        return value.target is None
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0
