"""The description of the API is one of the API, and docs/api.md says the same."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from ollamapy.server.app import ROUTES
from ollamapy.server.openapi import OPERATIONS, Operation, description

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def test_the_description_is_served_and_names_all_routes(scripted: RunningServer) -> None:
    connection = http.client.HTTPConnection(scripted.host)
    connection.request("GET", "/openapi.json")
    served = json.loads(connection.getresponse().read())
    connection.close()
    assert served == json.loads(json.dumps(description()))
    described = {(method, path) for path, item in served["paths"].items() for method in item}
    assert described == {(method.lower(), path.replace(":.+", "")) for method, path, _ in ROUTES}


def test_every_schema_is_one_and_says_something_of_every_field() -> None:
    for name, schema in description()["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for field, shape in schema["properties"].items():
            assert shape.keys() & {"type", "anyOf", "$ref", "const"}, f"{name}.{field}"


def _fields(schema: dict[str, Any], schemas: dict[str, Any], before: str = "") -> set[str]:
    """The fields of a body, those of objects within it as `messages[].role`."""
    found = set()
    for name, shape in schema["properties"].items():
        path = f"{before}{name}"
        found.add(path)
        for choice in (shape, *shape.get("anyOf", ())):
            inner, suffix = choice, "."
            if "items" in choice:
                inner, suffix = choice["items"], "[]."
            if "$ref" in inner:
                found |= _fields(schemas[inner["$ref"].rpartition("/")[2]], schemas, path + suffix)
    return found


def _sections() -> dict[str, str]:
    """What docs/api.md says under the headings that name a path."""
    found: dict[str, str] = {}
    for part in re.split(r"^##+ ", DOCS, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        for path in re.findall(r"/[\w./{}]*", heading):
            found[path] = found.get(path, "") + text
    return found


def _listed(section: str) -> set[str]:
    """The names in the first column of the tables of fields."""
    found = set()
    for table in section.split("| field | |\n")[1:]:
        rows = re.match(r"(\|.*\n)*", table)
        for row in rows[0].splitlines() if rows else ():
            found |= set(re.findall(r"`([^`]+)`", row.split("|")[1]))
    return found


WITH_FIELDS = [operation for operation in OPERATIONS if operation.body is not None]


@pytest.mark.parametrize("operation", WITH_FIELDS, ids=[operation.path for operation in WITH_FIELDS])
def test_the_docs_list_every_field_and_no_other(operation: Operation) -> None:
    assert operation.body is not None
    schemas = description()["components"]["schemas"]
    fields = _fields(schemas[operation.body.__name__], schemas)
    assert _listed(_sections()[operation.path]) == fields


def test_the_docs_name_every_route_and_no_other() -> None:
    named = {(m.lower(), path) for m, path in re.findall(r"`(GET|HEAD|POST|DELETE) (/[^` ]*)`", DOCS)}
    assert named == {(operation.method, operation.path) for operation in OPERATIONS}
