"""Good bodies with something wrong deep inside them: refused in words, or answered, never a failure of the server.

What test_fuzz makes of the description of the API goes no deeper than that says; this goes wherever a body goes.
OLLAMAPY_FUZZ_EXAMPLES=2000 python -m pytest tests/server/test_spoilt_bodies.py looks longer,
OLLAMAPY_FUZZ_SEED=2 elsewhere.
"""

from __future__ import annotations

import http.client
import json
import os
import random
from typing import Any

import msgspec
import pytest

from ollamapy.server.openapi import OPERATIONS
from tests.server.full_bodies import BODIES, prepare
from tests.server.harness import RunningServer
from tests.server.test_fuzz import LONGER, apart, registry, send  # noqa: F401 (fixtures)

SPOILT = LONGER or 150  # of each endpoint
SEED = int(os.environ.get("OLLAMAPY_FUZZ_SEED", "1"))
# Their names would be looked up in the world; test_fuzz aims them at a registry of its own.
METHODS = {
    operation.path: operation.method
    for operation in OPERATIONS
    if operation.body is not None and operation.path not in ("/api/pull", "/api/push")
}


def _deep(levels: int, key: str = "") -> Any:
    value: Any = []
    for _ in range(levels):
        value = {key: value} if key else [value]
    return value


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.5, -0.0, 1e308, 1 << 31, 1 << 63, 1 << 64, -(10**30), 10**400),
    *(
        "",
        " ",
        "hello",
        "\x00",
        "\ud800",
        "é世",
        "9" * 5000,
        "[" * 3000,
        "x" * 70_000,
        "{{",
        "sha256:",
        "a/b:c",
    ),
    *([], {}, [None], [[]], [{}], [0], [""], [1e308], {"": None}, {"type": []}, {"type": {}}, {"$ref": "#"}),
    *(["hello"] * 3000, list(range(5000)), dict.fromkeys(map(str, range(3000)), 1)),
    *(
        _deep(levels, key)
        for levels in (30, 240, 480)
        for key in ("", "properties", "items", "content", "tools")
    ),
]


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))  # copy.deepcopy() goes less deep


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything within a value, down to some depth."""
    if len(path) > 20:
        return []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*path, key), *_places(item, (*path, key)))]


def _at(body: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        body = body[key]
    return body


def spoil(body: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """The body with one to three things changed: replaced, removed, wrapped, named otherwise."""
    body = _copied(body)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if not (places := _places(body)):
            break
        path = dice.choice(places)
        holder, key = _at(body, path[:-1]), path[-1]
        kind = dice.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = _copied(_at(body, dice.choice(places)))
        elif kind == 2:
            holder[key] = [holder[key]] if dice.randrange(2) else {str(key): holder[key]}
        elif kind == 3 and isinstance(holder, dict):
            holder[dice.choice((str(key).upper(), "type", "$ref", "x"))] = holder.pop(key)
        else:
            holder[key] = _copied(dice.choice(ODD))
    return body


def test_the_bodies_have_every_field() -> None:
    for operation in OPERATIONS:
        if operation.path not in METHODS:
            continue
        assert operation.body is not None
        fields = {field.encode_name for field in msgspec.structs.fields(operation.body)}
        assert {key for body in BODIES[operation.path] for key in body} == fields, operation.path


@pytest.mark.parametrize("path", METHODS)
def test_nothing_inside_a_body_breaks_the_server(apart: RunningServer, path: str) -> None:  # noqa: F811
    prepare(apart)
    first, *_ = BODIES[path]
    assert send(apart, METHODS[path], path, first) == 200
    statuses, broken = set(), []
    for number in range(SPOILT):
        dice = random.Random(f"{SEED} {path} {number}")
        body = spoil(dice.choice(BODIES[path]), dice)
        try:
            statuses.add(send(apart, METHODS[path], path, body))
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            broken.append(f"{number}: {type(error).__name__} {error} {str(body)[:2000]}")
    assert not broken, "\n".join(broken[:9])
    assert 400 in statuses
