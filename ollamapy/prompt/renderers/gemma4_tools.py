"""How Gemma 4 is told of tools.

A schema is an object here, with generic JSON below `items`; what differs between the two is on purpose, since
the published template and Ollama's types have it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollamapy.prompt.gotemplate.printing import show
from ollamapy.prompt.renderers.conversation import Property, Tool
from ollamapy.prompt.renderers.gemma_values import Notation

VALUES = Notation('<|"|>')
_SCHEMA_VALUES = Notation('<|"|>', keys=True)
_OWN_KEYS = ("description", "type", "properties", "required", "nullable")
"""keywords of a schema: an argument of such a name is not written"""


def declaration(tool: Tool) -> str:
    """A tool on offer."""
    parameters = tool.parameters
    fields = []
    if parameters.properties:
        fields.append(f"properties:{{{_properties(_schemas(parameters.properties))}}}")
    if parameters.required:
        fields.append(f"required:{VALUES.strings(parameters.required)}")
    if parameters.type:
        fields.append(f"type:{VALUES.string(parameters.type.upper())}")
    schema = ""
    if parameters.properties is not None or parameters.type:
        schema = f",parameters:{{{','.join(fields)}}}"
    return f"<|tool>declaration:{tool.name}{{description:{VALUES.string(tool.description)}{schema}}}<tool|>"


def _schemas(properties: Mapping[str, Property]) -> dict[str, Any]:
    return {name: _schema(schema) for name, schema in properties.items()}


def _schema(schema: Property) -> dict[str, Any]:
    """A typed property as an object. Several types are one, spelled as Python's list: the template has it
    so."""
    types = schema.type or _union(schema)
    kind = types[0] if len(types) == 1 else "[" + ", ".join(f"'{name.upper()}'" for name in types) + "]"
    fields: dict[str, Any] = {
        "type": kind if types else None,
        "description": schema.description or None,
        "enum": list(schema.enum) or None,
        "items": schema.items,
        "properties": None if schema.properties is None else _schemas(schema.properties),
        "required": list(schema.required) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _union(schema: Property) -> tuple[str, ...]:
    """The types of an anyOf whose branches are nothing but types, each once."""
    for branch in schema.any_of:
        if not branch.type or branch != Property(type=branch.type):
            return ()
    return tuple(dict.fromkeys(name for branch in schema.any_of for name in branch.type))


def _types(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.upper()]
    return [name.upper() for name in _texts(value)]


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _type(names: list[str]) -> str:
    """`type:…` for its names, nothing for none."""
    if not names:
        return ""
    return "type:" + (VALUES.string(names[0]) if len(names) == 1 else VALUES.strings(names))


def _items(items: Mapping[str, Any]) -> str:
    """The schema of a list's items."""
    written = []
    for key in sorted(items):
        value = items[key]
        if value is None:
            continue
        if key == "properties":
            written.append(f"properties:{{{_properties(value) if isinstance(value, dict) else ''}}}")
        elif key == "required":
            written.append(f"required:{VALUES.strings(_texts(value))}")
        elif key == "type":
            written.append(_type(_types(value)))
        else:
            written.append(f"{key}:{_SCHEMA_VALUES.value(value)}")
    return ",".join(written)


def _properties(schemas: Mapping[str, Any]) -> str:
    return ",".join(
        f"{name}:{{{_property(schemas[name])}}}"
        for name in sorted(schemas)
        if name not in _OWN_KEYS and isinstance(schemas[name], dict)
    )


def _property(schema: Mapping[str, Any]) -> str:
    types = _types(schema.get("type"))
    kind = types[0] if types else ""
    written = []
    description, enum, items = schema.get("description"), schema.get("enum"), schema.get("items")
    if isinstance(description, str) and description:
        written.append(f"description:{VALUES.string(description)}")
    if kind == "STRING" and isinstance(enum, list) and enum:
        written.append(f"enum:{VALUES.strings([show(value) for value in enum])}")
    if kind == "ARRAY" and isinstance(items, dict) and items:
        written.append(f"items:{{{_items(items)}}}")
    if schema.get("nullable") is True:
        written.append("nullable:true")
    if kind == "OBJECT":
        inner = schema.get("properties")
        written.append(f"properties:{{{_properties(inner if isinstance(inner, dict) else schema)}}}")
        if required := _texts(schema.get("required")):
            written.append(f"required:{VALUES.strings(required)}")
    if types:
        written.append(_type(types))
    return ",".join(written)
