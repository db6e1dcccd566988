"""Arguments become JSON that every reader takes, in whatever notation a model writes them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamapy.prompt.parsers.bare_values import BareValues
from ollamapy.prompt.parsers.base import ToolCall
from ollamapy.prompt.parsers.json_values import BraceScan, json_error, json_object, named_call
from ollamapy.prompt.parsers.python_calls import python_calls
from ollamapy.prompt.parsers.schema_values import block_value, parameter_types, typed_value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "\\ud800"}', {"a": "\ufffd"}),
        ('{"a": "line\nbreak\ttab"}', {"a": "line\nbreak\ttab"}),
        ('{"a": 123456789012345678901234567890}', {"a": 1.2345678901234568e29}),
        (' {"a": 1e3} ', {"a": 1000.0}),
        ('{"a": 1e999}', None),
        ('{"a": NaN}', None),
        ('{"a": 1} x', None),
        ("[1]", None),
        ("", None),
        ('{"a": ' * 150 + "1" + "}" * 150, None),
        ("[" * 100_000, None),
    ],
)
def test_json(text: str, value: Any) -> None:
    found = json_object(text)
    assert found == value
    orjson.dumps(found)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES))
def test_any_json_can_be_sent_on(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    found = json_object(text)
    assert found is not None and set(found) == set(value)
    orjson.dumps(found)
    assert BraceScan().end(text + "}} tail") == len(text)


def test_errors_in_ollamas_words() -> None:
    assert json_error('{"a": ') == json_error('{"a": "x') == "unexpected end of JSON input"
    assert json_error('{"a": 1}<') == "invalid character '<' after top-level value"


def test_named_calls() -> None:
    assert named_call('{"name": "f", "arguments": "{\\"a\\": 1}"}') == ToolCall("f", {"a": 1})
    assert named_call('{"name": "f"}') == ToolCall("f", {})
    assert named_call('{"name": "", "arguments": {}}') is None
    assert named_call('{"name": "f", "arguments": [1]}') is None


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", ["integer"], 5),
        ("5", ["string"], "5"),
        ("5", [], "5"),
        ("5", ["string", "number"], 5),
        ("5.0", ["number"], 5),
        ("5.5", ["number"], 5.5),
        ("1e400", ["number"], "1e400"),
        ("five", ["integer"], "five"),
        ("True", ["boolean"], True),
        ("maybe", ["boolean"], False),
        ("maybe", ["boolean", "string"], "maybe"),
        ("NULL", ["string"], None),
        ("[1, 2]", ["array"], [1, 2]),
        ("{}", ["array", "object"], {}),
        ("[1,", ["array"], "[1,"),
        (str(2**70), ["integer"], str(2**70)),
    ],
)
def test_typed_values(text: str, types: list[str], value: Any) -> None:
    found = typed_value(text, types)
    assert found == value and type(found) is type(value)
    assert block_value(f"\n{text}\n", types) == value


def test_types_of_a_schema() -> None:
    properties = {"a": {"type": ["integer", "null"]}, "b": {"anyOf": [{"type": "string"}, {"type": "array"}]}}
    tool = {"function": {"name": "f", "parameters": {"properties": properties}}}
    assert parameter_types(tool, "a") == ["integer", "null"]
    assert parameter_types(tool, "b") == ["string", "array"]
    assert (
        parameter_types(tool, "c")
        == parameter_types(None, "a")
        == parameter_types({"function": 1}, "a")
        == []
    )


def test_python_calls() -> None:
    text = """[f(a='it\\'s', b="x, y)", c=[1, 2.5, {'k': None, "l": True}]), g(), h.i(n=-3)]"""
    first, second, third = python_calls(text)
    assert first == ToolCall("f", {"a": "it's", "b": "x, y)", "c": [1, 2.5, {"k": None, "l": True}]})
    assert (second, third) == (ToolCall("g", {}), ToolCall("h.i", {"n": -3}))
    assert python_calls("f(a='it\\'s')", raw_strings=True) == [ToolCall("f", {"a": "it\\'s"})]
    for bad in ("", "f", "f(", "f(a)", "f(a=1", "f(a='x)", "text f(a=1)", "f(a={1})", "(" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            python_calls(bad)


def test_bare_values() -> None:
    values = BareValues("<q>")
    assert values.object("{a:<q>x, {y}<q>,b:[1,-2.5,true,null],c:{d:word},<q>e f<q>:1}") == {
        "a": "x, {y}", "b": [1, -2.5, True, None], "c": {"d": "word"}, "e f": 1
    }  # fmt: skip
    assert values.object('{ "a" : "x\\n", b : path/to/it }') == {"a": "x\n", "b": "path/to/it"}
    for bad in ("", "{", "{a}", "{a:1", "{a:<q>x}", "{a:1}}", "[1]", "{a:[1}", "{a:" * 300):
        assert values.object(bad) is None
