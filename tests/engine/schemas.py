"""Seeded JSON schemas whose answers are bounded: every string, array and recursion has an end."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

_NAMES = ["name", "age", "tags", "größe", 'a"b', "x/y", "id", "π", "_", "long name"]
_PATTERNS = [
    "^[a-c]{2}-[0-9]{1,3}$",
    "^(yes|no|may(be)?)$",
    "^\\d{2}:\\d{2}$",
    "^[A-Z][a-z]{0,5}$",
    "^.{2,4}$",
]
_FORMATS = ["uuid", "ipv4", "date-time", "date", "time", "email"]


class SchemaMaker:
    """One schema for one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Schema] = {}

    def make(self) -> Schema:
        root = self._schema(0)
        if self._definitions:
            root = {**root, "$defs": self._definitions}
        return root

    def _schema(self, depth: int) -> Schema:
        draw = self._random
        kinds = [self._string, self._integer, self._number, self._constant, self._simple]
        if depth < 3:
            kinds += [self._object, self._object, self._array, self._tuple, self._any, self._one, self._all]
            kinds += [self._reference, self._types]
        if depth == 0:
            kinds = [self._object, self._array, self._reference, self._any, self._all, self._string]
        made = draw.choice(kinds)(depth)
        if draw.random() < 0.2:
            made = {"title": "a title", "description": "what it is", "x-note": 1, **made}
        return made

    def _string(self, depth: int) -> Schema:
        draw = self._random
        kind = draw.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": draw.choice(_PATTERNS)}
        if kind == 1:
            return {"type": "string", "format": draw.choice(_FORMATS)}
        low = draw.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + draw.randrange(8)}

    def _integer(self, depth: int) -> Schema:
        draw = self._random
        made: Schema = {"type": "integer"}
        low = draw.randrange(-1000, 1000)
        if draw.random() < 0.7:
            made[draw.choice(["minimum", "exclusiveMinimum"])] = low
        if draw.random() < 0.7:
            made[draw.choice(["maximum", "exclusiveMaximum"])] = low + 2 + draw.randrange(500)
        if len(made) == 1 and draw.random() < 0.3:
            made["multipleOf"] = draw.randrange(2, 9)
        return made

    def _number(self, depth: int) -> Schema:
        draw = self._random
        low = draw.choice([0, -1.5, 0.25, 10, -273.15])
        return {"type": "number", "minimum": low, "maximum": low + draw.choice([1, 0.5, 100, 33.3])}

    def _constant(self, depth: int) -> Schema:
        draw = self._random
        values = [None, True, 3, -2.5, "fixed", 'a"b\\c', "é世", [1, [2]], {"a": None}]
        if draw.random() < 0.3:
            return {"const": draw.choice(values)}
        return {"enum": draw.sample(values, draw.randrange(1, 5))}

    def _simple(self, depth: int) -> Schema:
        return {"type": self._random.choice(["boolean", "null"])}

    def _types(self, depth: int) -> Schema:
        return {"type": self._random.sample(["integer", "boolean", "null", "string"], 2), "maxLength": 5}

    def _object(self, depth: int) -> Schema:
        draw = self._random
        names = draw.sample(_NAMES, draw.randrange(0, 4))
        made: Schema = {"type": "object", "properties": {name: self._schema(depth + 1) for name in names}}
        made["required"] = [name for name in names if draw.random() < 0.7]
        if draw.random() < 0.4:
            made["additionalProperties"] = False
        return made

    def _array(self, depth: int) -> Schema:
        low = self._random.randrange(3)
        most = low + self._random.randrange(3)
        return {"type": "array", "items": self._schema(depth + 1), "minItems": low, "maxItems": most}

    def _tuple(self, depth: int) -> Schema:
        parts = [self._schema(depth + 1) for _ in range(self._random.randrange(1, 4))]
        return {
            "type": "array",
            "prefixItems": parts,
            "items": False,
            "minItems": self._random.randrange(len(parts)),
        }

    def _any(self, depth: int) -> Schema:
        return {"anyOf": [self._schema(depth + 1) for _ in range(self._random.randrange(1, 4))]}

    def _one(self, depth: int) -> Schema:
        """Branches that can be told apart: else it would be anyOf."""
        return {
            "oneOf": [{"type": "null"}, {"type": "boolean"}, self._object(depth + 1), self._integer(depth)]
        }

    def _all(self, depth: int) -> Schema:
        first, second = self._random.sample(_NAMES, 2)
        return {
            "allOf": [
                {"type": "object", "properties": {name: self._schema(depth + 1)}, "required": [name]}
                for name in (first, second)
            ]
        }

    def _reference(self, depth: int) -> Schema:
        name = f"d{len(self._definitions)}"
        self._definitions[name] = {"type": "null"}  # its place, while it is made
        self._definitions[name] = self._schema(depth + 1)
        return {"$ref": f"#/$defs/{name}"}
