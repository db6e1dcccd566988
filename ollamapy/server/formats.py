"""What requests write where they want structured output, as grammars. Checked off the event loop, before a model is
loaded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

from ollamapy.engine.constrained_grammar import (
    checked,
    json_grammar,
    lark_grammar,
    regex_grammar,
    schema_grammar,
)
from ollamapy.server.errors import ServerError
from ollamapy.types import RequestError

T = TypeVar("T")


async def compiled(make: Callable[..., str], *arguments: Any) -> str:
    """A grammar made and checked in a thread. Raises RequestError for one that llguidance refuses."""
    return await asyncio.to_thread(lambda: checked(make(*arguments)))


async def native_format(value: Any) -> str | None:
    """`format` of /api: "json", a JSON schema, or `{"type": "grammar", "syntax": "regex" or "lark", "definition":
    text}`. None for none. Raises RequestError."""
    if value is None or value == "":
        return None
    if value == "json":
        return await compiled(json_grammar)
    if not isinstance(value, dict):
        shown = json.dumps(json.dumps(value, ensure_ascii=False, separators=(",", ":")), ensure_ascii=False)
        raise ServerError(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')
    if value.get("type") == "grammar":
        return await custom_grammar(value, "format")
    return await compiled(schema_grammar, value)


async def custom_grammar(value: dict[str, Any], where: str) -> str:
    """A grammar in the shape that OpenAI gives those of custom tools. Raises RequestError."""
    makers = {"regex": regex_grammar, "lark": lark_grammar}
    make = makers.get(str(value.get("syntax")))
    if make is None:
        raise RequestError(f'{where}.syntax must be "regex" or "lark"')
    if not isinstance(value.get("definition"), str):
        raise RequestError(f"{where}.definition must be a string")
    return await compiled(make, value["definition"])


async def response_format(value: Any, where: str) -> str | None:
    """`response_format` of OpenAI's chat, or `text.format` of its responses, where name, schema and strict stand
    beside the type. None for text. Raises RequestError."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    kind = kind.strip().lower() if isinstance(kind, str) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return await compiled(json_grammar)
    if kind == "grammar":
        return await custom_grammar(value, where)
    if kind != "json_schema":
        raise RequestError(f"{where}.type must be text, json_object, json_schema or grammar")
    holder = value.get("json_schema", value)
    if not isinstance(holder, dict) or not isinstance(holder.get("schema"), dict):
        raise RequestError(f"{where}: a json_schema needs a schema")
    return await compiled(schema_grammar, holder["schema"], holder.get("strict") is True)
