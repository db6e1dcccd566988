"""What an Ollama template sees: messages, tools and their calls as the Go types that Ollama gives to it.

The types, their fields and what they print are those of Ollama's packages template and api.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ollamapy.prompt.gotemplate.encoding import is_empty, to_json
from ollamapy.prompt.gotemplate.values import (
    ANY,
    ANY_SLICE,
    BYTES,
    INT,
    STRING,
    STRING_MAP,
    STRING_SLICE,
    UINT8,
    Field,
    Map,
    Method,
    Pairs,
    Pointer,
    Slice,
    Struct,
    Type,
    from_json,
    string_bytes,
)

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


def _shown(value: Any) -> str:
    """String() that prints JSON."""
    return to_json(value)


def _shown_map(value: Map) -> str:
    return "{}" if value.items is None else to_json(value)


_STRING_METHOD = {"String": Method(_shown)}

# ---------------------------------------------------------------- properties of tools

_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _typescript(value: Struct) -> str:
    options = value.values["AnyOf"].items or ()
    if options:
        return " | ".join(_typescript(option) for option in options)
    names = value.values["Type"].items or ()
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in names) or "any"


def _type_text(value: Slice) -> str:
    names = value.items or ()
    return names[0] if len(names) == 1 else f"[{' '.join(names)}]" if names else ""


def _type_json(value: Slice) -> Any:
    return value.items[0] if value.items and len(value.items) == 1 else Slice(STRING_SLICE, value.items)


def _json_bytes(value: Any) -> Slice:
    return Slice(BYTES, string_bytes(to_json(value)))


def _ordered(value: Any) -> Any:
    """The pairs of a ToolPropertiesMap in the order of the request; None for nil."""
    if isinstance(value, Pointer):
        value = value.target
    return None if value is None else value.values["om"].target.values["pairs"]


_UNSETTABLE = Method(lambda value: None, 2, "function Set has 0 return values; should be 1 or 2")
_TWO_RESULTS = Method(
    lambda value: None, 1, "invalid function signature for Get: second return value should be error; is bool"
)
_BYTE_DECODER = Method(lambda value: None, 1, "error calling UnmarshalJSON: unexpected end of JSON input")

PROPERTY_TYPE = Type(
    "api.PropertyType",
    "slice",
    STRING,
    string=_type_text,
    methods={"String": Method(_type_text), "MarshalJSON": Method(_json_bytes)},
    pointer_methods={"UnmarshalJSON": _BYTE_DECODER},
    marshal=_type_json,
)
PROPERTIES_POINTER = Type("*api.ToolPropertiesMap", "pointer")
PROPERTY = Type("api.ToolProperty", "struct", methods={"ToTypeScriptType": Method(_typescript)})
PROPERTY_SLICE = Type("[]api.ToolProperty", "slice", PROPERTY)
PROPERTY_MAP = Type("map[string]api.ToolProperty", "map", PROPERTY)
# the table within has no fields that a template can reach; its pairs are what lies in it
_TABLE = Type("orderedmap.Map[string,github.com/ollama/ollama/api.ToolProperty]", "struct")
_TABLE_POINTER = Type(f"*{_TABLE.name}", "pointer", _TABLE)
_PAIRS = Type("iter.Seq2[string,github.com/ollama/ollama/api.ToolProperty]", "func")
PROPERTIES = Type(
    "api.ToolPropertiesMap",
    "struct",
    fields={"om": Field(_TABLE_POINTER)},
    methods={"MarshalJSON": Method(_json_bytes)},
    pointer_methods={
        "All": Method(lambda value: Pairs(_PAIRS, _ordered(value) or [])),
        "Get": _TWO_RESULTS,
        "Len": Method(lambda value: len(_ordered(value) or ())),
        "Set": _UNSETTABLE,
        "ToMap": Method(
            lambda value: Map(PROPERTY_MAP, None if _ordered(value) is None else dict(_ordered(value)))
        ),
        "UnmarshalJSON": _BYTE_DECODER,
    },
    marshal=_ordered,
)
object.__setattr__(PROPERTIES_POINTER, "elem", PROPERTIES)  # the two types name each other
object.__setattr__(
    PROPERTY,
    "fields",
    {
        "AnyOf": Field(PROPERTY_SLICE, "anyOf", True),
        "Type": Field(PROPERTY_TYPE, "type", True),
        "Items": Field(ANY, "items", True),
        "Description": Field(STRING, "description", True),
        "Enum": Field(ANY_SLICE, "enum", True),
        "Properties": Field(PROPERTIES_POINTER, "properties", True),
        "Required": Field(STRING_SLICE, "required", True),
    },
)

# ---------------------------------------------------------------- tools

PROPERTY_TABLE = Type(
    "template.templateProperties",
    "map",
    PROPERTY,
    string=_shown_map,
    methods={"String": Method(_shown_map)},
)
PARAMETERS = Type(
    "template.templateToolFunctionParameters",
    "struct",
    fields={
        "Type": Field(STRING, "type"),
        "Defs": Field(ANY, "$defs", True),
        "Items": Field(ANY, "items", True),
        "Required": Field(STRING_SLICE, "required", True),
        "Properties": Field(PROPERTY_TABLE, "properties"),
    },
)
FUNCTION = Type(
    "template.templateToolFunction",
    "struct",
    fields={
        "Name": Field(STRING, "name"),
        "Description": Field(STRING, "description"),
        "Parameters": Field(PARAMETERS, "parameters"),
    },
)
TOOL = Type(
    "template.templateTool",
    "struct",
    fields={
        "Type": Field(STRING, "type"),
        "Items": Field(ANY, "items", True),
        "Function": Field(FUNCTION, "function"),
    },
    string=_shown,
    methods=_STRING_METHOD,
)
TOOLS = Type("template.templateTools", "slice", TOOL, string=_shown, methods=_STRING_METHOD)

# ---------------------------------------------------------------- messages

ARGUMENTS = Type(
    "template.templateArgs", "map", ANY, string=_shown_map, methods={"String": Method(_shown_map)}
)
CALL_FUNCTION = Type(
    "template.templateToolCallFunction",
    "struct",
    fields={"Index": Field(INT), "Name": Field(STRING), "Arguments": Field(ARGUMENTS)},
)
CALL = Type(
    "template.templateToolCall",
    "struct",
    fields={"ID": Field(STRING), "Function": Field(CALL_FUNCTION)},
)
CALLS = Type("[]template.templateToolCall", "slice", CALL)
IMAGE = Type("api.ImageData", "slice", UINT8)
IMAGES = Type("[]api.ImageData", "slice", IMAGE)
MESSAGE = Type(
    "template.templateMessage",
    "struct",
    fields={
        "Role": Field(STRING),
        "Content": Field(STRING),
        "Thinking": Field(STRING),
        "Images": Field(IMAGES),
        "ToolCalls": Field(CALLS),
        "ToolName": Field(STRING),
        "ToolCallID": Field(STRING),
    },
)
MESSAGE_POINTER = Type("*template.templateMessage", "pointer", MESSAGE)
MESSAGES = Type("[]*template.templateMessage", "slice", MESSAGE_POINTER)


def top(values: dict[str, Any]) -> Map:
    """The data of a template: what .System and the like are looked up in."""
    return Map(STRING_MAP, values)


def messages_value(messages: Sequence[Message]) -> Slice:
    return Slice(MESSAGES, [Pointer(MESSAGE_POINTER, _message(message)) for message in messages])


def tools_value(tools: Sequence[Tool] | None) -> Slice:
    """Tools as a template sees them; None is nil."""
    return Slice(TOOLS, None if tools is None else [_tool(tool) for tool in tools])


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: Any) -> Slice:
    """A list of texts; nil when it is none."""
    return Slice(STRING_SLICE, [_string(item) for item in value] if isinstance(value, list) else None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _message(message: Message) -> Struct:
    images, calls = message.get("images"), message.get("tool_calls")
    values = {
        "Role": _string(message.get("role")),
        "Content": _string(message.get("content")),
        "Thinking": _string(message.get("thinking")),
        "Images": Slice(IMAGES, None if images is None else [Slice(IMAGE, _image(i)) for i in images]),
        "ToolCalls": Slice(CALLS, [_call(call) for call in calls] if calls else None),
        "ToolName": _string(message.get("tool_name")),
        "ToolCallID": _string(message.get("tool_call_id")),
    }
    return Struct(MESSAGE, values)


def _image(image: str | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return base64.b64decode(image)
    except (binascii.Error, ValueError):
        return b""


def _call(call: Mapping[str, Any]) -> Struct:
    function = _mapping(call.get("function"))
    arguments = function.get("arguments")
    index = function.get("index")
    values = {
        "Index": index if isinstance(index, int) else 0,
        "Name": _string(function.get("name")),
        "Arguments": Map(
            ARGUMENTS,
            {key: from_json(item) for key, item in arguments.items()}
            if isinstance(arguments, dict)
            else None,
        ),
    }
    return Struct(CALL, {"ID": _string(call.get("id")), "Function": Struct(CALL_FUNCTION, values)})


def _tool(tool: Tool) -> Struct:
    function = _mapping(tool.get("function"))
    given = _mapping(function.get("parameters"))
    properties = given.get("properties")
    parameters = {
        "Type": _string(given.get("type")),
        "Defs": from_json(given.get("$defs")),
        "Items": from_json(given.get("items")),
        "Required": _strings(given.get("required")),
        "Properties": Map(
            PROPERTY_TABLE,
            {name: _property(item) for name, item in properties.items()}
            if isinstance(properties, dict)
            else None,
        ),
    }
    described = {
        "Name": _string(function.get("name")),
        "Description": _string(function.get("description")),
        "Parameters": Struct(PARAMETERS, parameters),
    }
    values = {
        "Type": _string(tool.get("type")),
        "Items": from_json(tool.get("items")),
        "Function": Struct(FUNCTION, described),
    }
    return Struct(TOOL, values)


def _property(given: Any) -> Struct:
    given = _mapping(given)
    names, options, choices = given.get("type"), given.get("anyOf"), given.get("enum")
    properties = given.get("properties")
    inner = None
    if isinstance(properties, dict):
        pairs = [(name, _property(item)) for name, item in properties.items()]
        inner = Struct(PROPERTIES, {"om": Pointer(_TABLE_POINTER, Struct(_TABLE, {"pairs": pairs}))})
    values = {
        "AnyOf": Slice(
            PROPERTY_SLICE, [_property(o) for o in options] if isinstance(options, list) else None
        ),
        "Type": Slice(PROPERTY_TYPE, [names] if isinstance(names, str) else _strings(names).items),
        "Items": from_json(given.get("items")),
        "Description": _string(given.get("description")),
        "Enum": Slice(ANY_SLICE, [from_json(c) for c in choices] if isinstance(choices, list) else None),
        "Properties": Pointer(PROPERTIES_POINTER, inner),
        "Required": _strings(given.get("required")),
    }
    return Struct(PROPERTY, values)


# ---------------------------------------------------------------- JSON of the API


def arguments_json(arguments: Any) -> str:
    """The arguments of a call in the order of the request, as Ollama hands them to llama.cpp."""
    if not isinstance(arguments, dict):
        return "{}"
    return to_json([(key, from_json(item)) for key, item in arguments.items()])


def tools_json(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as llama.cpp shows them to a Jinja template: their known keys, properties in the request's order."""
    shown = []
    for tool in tools:
        values = _tool(tool).values["Function"].values
        parameters = values["Parameters"]
        members: list[tuple[str, Any]] = []
        for name, member in parameters.type.fields.items():
            item = parameters.values[name]
            if name == "Properties":
                item = None if item.items is None else list(item.items.items())
            if name == "Properties" or not (member.omitempty and is_empty(item)):
                members.append((member.key or name, item))
        text = to_json(
            [("name", values["Name"]), ("description", values["Description"]), ("parameters", members)]
        )
        shown.append({"type": "function", "function": json.loads(text)})
    return shown
