"""Which values the tools of a request may have: what Ollama's types can hold. Unknown keys are let pass."""

from __future__ import annotations

from typing import Any

from ollamapy.types import RequestError

_STRINGS = ["string"]
_PROPERTY: dict[str, Any] = {
    "type": ("string", _STRINGS),
    "description": "string",
    "enum": ["any"],
    "required": _STRINGS,
}
_PROPERTY["anyOf"] = [_PROPERTY]
_PROPERTY["properties"] = ("map", _PROPERTY)
_TOOL: dict[str, Any] = {
    "type": "string",
    "function": {
        "name": "string",
        "description": "string",
        "parameters": {"type": "string", "required": _STRINGS, "properties": ("map", _PROPERTY)},
    },
}


def check_tools(tools: list[dict[str, Any]]) -> None:
    """Raises RequestError for a value of the wrong type."""
    for tool in tools:
        _check(tool, _TOOL, "tools")


def _check(value: Any, shape: Any, where: str) -> None:
    """Compare a value with a shape: a type's name, [of items], {keys}, ("map", of values), or two to choose from."""
    if value is None or shape == "any":
        return
    if isinstance(shape, tuple) and shape[0] != "map":
        shape = next((s for s in shape if isinstance(s, list) == isinstance(value, list)), shape[0])
    if isinstance(shape, list):
        _expect(isinstance(value, list), value, "a list", where)
        for item in value:
            _check(item, shape[0], where)
    elif isinstance(shape, tuple):
        _expect(isinstance(value, dict), value, "an object", where)
        for key, item in value.items():
            _check(item, shape[1], f"{where}.{key}")
    elif isinstance(shape, dict):
        _expect(isinstance(value, dict), value, "an object", where)
        for key, inner in shape.items():
            _check(value.get(key), inner, f"{where}.{key}")
    else:
        _expect(isinstance(value, str), value, "a string", where)


def _expect(right: bool, value: Any, wanted: str, where: str) -> None:
    if not right:
        raise RequestError(f"invalid request: {where} has to be {wanted}, not {type(value).__name__}")
