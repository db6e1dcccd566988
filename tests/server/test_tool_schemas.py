"""Tools whose values Ollama's types cannot hold are refused."""

from __future__ import annotations

from typing import Any

import pytest

from ollamapy.server.tool_schemas import check_tools
from ollamapy.types import RequestError


def tool(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def test_what_schemas_say_is_let_pass() -> None:
    nested = {"type": "object", "properties": {"x": {"type": ["integer", "null"], "enum": [1, None]}}}
    check_tools([tool(type="object", required=["a"], properties={"a": nested, "b": {"anyOf": [nested]}})])
    check_tools([{}, {"function": None}, tool(additionalProperties=False, properties=None)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": 5},
        {"function": "f"},
        {"function": {"name": 1}},
        {"function": {"parameters": []}},
        tool(type=["object"]),
        tool(required="a"),
        tool(required=[1]),
        tool(properties=["a"]),
        tool(properties={"a": "string"}),
        tool(properties={"a": {"type": 5}}),
        tool(properties={"a": {"type": [5]}}),
        tool(properties={"a": {"enum": "x"}}),
        tool(properties={"a": {"anyOf": [{"description": 1}]}}),
        tool(properties={"a": {"properties": {"b": {"required": 1}}}}),
    ],
)
def test_what_they_cannot_is_not(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="invalid request: tools"):
        check_tools([wrong])
