"""What renderers are given: a conversation's turns and the tools on offer, typed as Ollama types them.

Unknown keys are dropped, and what a type does not allow is refused, as when Ollama decodes the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from ollamapy.prompt.go_values import OrderedMap, generic
from ollamapy.types import RequestError

T = TypeVar("T")

_KINDS: dict[Any, str] = {dict: "an object", list: "a list", str: "a string"}

Think = bool | str | None
"""whether to think, or how much ("low", "medium", "high", "max"); None: not said"""


@dataclass(frozen=True)
class Call:
    """A tool call of an assistant's turn."""

    id: str
    name: str
    arguments: OrderedMap  # in the order of the request; the objects within are sorted


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: str
    content: str = ""
    thinking: str = ""
    images: int = 0  # how many it shows
    calls: tuple[Call, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True)
class Property:
    """The schema of one argument."""

    any_of: tuple[Property, ...] = ()
    type: tuple[str, ...] = ()
    items: Any = None
    description: str = ""
    enum: tuple[Any, ...] = ()
    properties: dict[str, Property] | None = None
    required: tuple[str, ...] = ()

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Its JSON: what is empty is left out."""
        fields = {
            "anyOf": [branch.plain for branch in self.any_of],
            "type": plain_type(self.type),
            "items": self.items,
            "description": self.description,
            "enum": list(self.enum),
            "properties": plain_properties(self.properties),
            "required": list(self.required),
        }
        kept = {"items": self.items is not None, "properties": self.properties is not None}
        return {key: value for key, value in fields.items() if kept.get(key, bool(value))}


@dataclass(frozen=True)
class Parameters:
    """The schema of a tool's arguments."""

    type: str = ""
    defs: Any = None
    items: Any = None
    required: tuple[str, ...] = ()
    properties: dict[str, Property] | None = None

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Its JSON."""
        shown: dict[str, Any] = {"type": self.type}
        if self.defs is not None:
            shown["$defs"] = self.defs
        if self.items is not None:
            shown["items"] = self.items
        if self.required:
            shown["required"] = list(self.required)
        return shown | {"properties": plain_properties(self.properties)}


@dataclass(frozen=True)
class Tool:
    """A tool on offer."""

    type: str = ""
    items: Any = None
    name: str = ""
    description: str = ""
    parameters: Parameters = field(default_factory=Parameters)

    @cached_property
    def function(self) -> dict[str, Any]:
        """The JSON of its function."""
        described = {"description": self.description} if self.description else {}
        return {"name": self.name, **described, "parameters": self.parameters.plain}

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Its JSON."""
        items = {} if self.items is None else {"items": self.items}
        return {"type": self.type, **items, "function": self.function}


def plain_type(names: Sequence[str]) -> str | list[str]:
    """One type as a string, several as a list."""
    return names[0] if len(names) == 1 else list(names)


def plain_properties(properties: Mapping[str, Property] | None) -> OrderedMap | None:
    if properties is None:
        return None
    return OrderedMap((name, schema.plain) for name, schema in properties.items())


def turn_of(message: Mapping[str, Any]) -> Turn:
    """A message as Turn."""
    return Turn(
        role=message.get("role", ""),
        content=message.get("content") or "",
        thinking=message.get("thinking") or "",
        images=len(message.get("images") or ()),
        calls=tuple(_call(call) for call in message.get("tool_calls") or ()),
        tool_name=message.get("tool_name") or "",
        tool_call_id=message.get("tool_call_id") or "",
    )


def _call(call: Mapping[str, Any]) -> Call:
    function = call.get("function") or {}
    arguments = function.get("arguments") or {}
    return Call(
        id=call.get("id") or "",
        name=function.get("name") or "",
        arguments=OrderedMap((name, generic(value)) for name, value in arguments.items()),
    )


def tool_of(tool: Mapping[str, Any]) -> Tool:
    """An offered tool as Tool. Raises RequestError for a schema of wrong types."""
    function = _get(tool, "function", dict) or {}
    parameters = _get(function, "parameters", dict) or {}
    return Tool(
        type=_get(tool, "type", str) or "",
        items=generic(tool.get("items")),
        name=_get(function, "name", str) or "",
        description=_get(function, "description", str) or "",
        parameters=Parameters(
            type=_get(parameters, "type", str) or "",
            defs=generic(parameters.get("$defs")),
            items=generic(parameters.get("items")),
            required=_texts(parameters, "required"),
            properties=_properties(parameters),
        ),
    )


def _property(schema: Any) -> Property:
    if schema is None:
        return Property()
    if not isinstance(schema, dict):
        raise RequestError("invalid tool: a property's schema must be an object")
    return Property(
        any_of=tuple(_property(branch) for branch in _get(schema, "anyOf", list) or ()),
        type=(schema["type"],) if isinstance(schema.get("type"), str) else _texts(schema, "type"),
        items=generic(schema.get("items")),
        description=_get(schema, "description", str) or "",
        enum=tuple(generic(_get(schema, "enum", list) or [])),
        properties=_properties(schema),
        required=_texts(schema, "required"),
    )


def _properties(schema: Mapping[str, Any]) -> dict[str, Property] | None:
    properties = _get(schema, "properties", dict)
    return None if properties is None else {name: _property(value) for name, value in properties.items()}


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = _get(value, key, list) or []
    if not all(isinstance(text, str) for text in texts):
        raise RequestError(f"invalid tool: {key} must be a list of strings")
    return tuple(texts)


def _get(value: Mapping[str, Any], key: str, kind: type[T]) -> T | None:
    found = value.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise RequestError(f"invalid tool: {key} must be {_KINDS[kind]}")
