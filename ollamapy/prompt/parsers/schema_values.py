"""Argument values that a model writes as bare text, given the type that the tool's schema asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ollamapy.prompt.parsers.base import Tool
from ollamapy.prompt.parsers.json_values import json_value

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EXACT = 2**63  # integers below it are kept as they are


def tool_named(tools: Sequence[Tool], name: str) -> Tool | None:
    return next((tool for tool in tools if tool_name(tool) == name), None)


def tool_name(tool: Tool) -> str:
    function = tool.get("function")
    return str(function.get("name") or "") if isinstance(function, Mapping) else ""


def parameter_types(tool: Tool | None, parameter: str) -> list[str]:
    """The types that a tool's schema allows for an argument; none when it says nothing."""
    function = tool.get("function") if tool is not None else None
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    schema = properties.get(parameter) if isinstance(properties, Mapping) else None
    if not isinstance(schema, Mapping):
        return []
    branches = schema.get("anyOf")
    found = [schema] if not isinstance(branches, list) or not branches else branches
    types: list[str] = []
    for branch in found:
        kind = branch.get("type") if isinstance(branch, Mapping) else None
        types += [kind] if isinstance(kind, str) else [k for k in kind or () if isinstance(k, str)]
    return types


def typed_value(text: str, types: Sequence[str]) -> Any:
    """A text as the most special of the types that it fits: boolean, integer, number, array, object; null goes
    before all, and what fits none is a string, except that a lone boolean is false."""
    if text.lower() == "null":
        return None
    if "boolean" in types:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if len(types) == 1:
            return False
    if "integer" in types and _INTEGER.fullmatch(text) and abs(int(text)) < _EXACT:
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return int(value) if value == math.trunc(value) and abs(value) < _EXACT else value
    for kind, python in (("array", list), ("object", dict)):
        if kind in types:
            try:
                parsed = json_value(text)
            except ValueError:
                continue
            if isinstance(parsed, python):
                return parsed
    return text


def block_value(text: str, types: Sequence[str]) -> Any:
    """typed_value() of a text that stands on lines of its own."""
    return typed_value(text.removeprefix("\n").removesuffix("\n"), types)
