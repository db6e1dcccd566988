"""What of a JSON Schema can be enforced while it is written, and what is wrong with it.

Keywords are those of JSON Schema 2020-12 and the older drafts that clients send. Annotations are ignored. A keyword
that llguidance enforces is kept; one that it does not is refused with its path when the request says strict, else
dropped and named. Objects with `properties` are closed unless they say `additionalProperties`, as models would go on
for ever. The result means the same or less: what is written under it is valid under what is kept of the schema.
"""

from __future__ import annotations

import json
from typing import Any

from ollamapy.types import RequestError

_MAX_DEPTH = 60  # of nested schemas: two levels of JSON each, of which llguidance reads 127
_MAX_NODES = 20_000  # values of a schema
_SMALLEST, _LARGEST = 1e-15, 1e18  # of bounds that llguidance can enforce
_LARGEST_MULTIPLE = 9 * 10**18  # whichever bound it has on the other side, there are some below
_LARGEST_FACTOR = 100_000  # that it can enforce, if it has few decimals

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
# that llguidance knows
_FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
# Characters that those without an end of their own may have: small models would go on for ever.
_LONGEST = {"date-time": 40, "time": 40, "duration": 40, "email": 254, "hostname": 253}
_COMBINE = ("anyOf", "oneOf", "allOf")
_LISTS = (*_COMBINE, "prefixItems")
_MAPS = ("properties", "patternProperties")
_DEFINITIONS = ("$defs", "definitions")
_SCHEMAS = ("additionalProperties", "additionalItems", "items")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_PAIRS = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minProperties", "maxProperties"),
    ("minimum", "maximum"),
)
_UNENFORCED = frozenset(
    {
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
        *("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    }
)
_KEPT = frozenset(
    {
        *(*_LISTS, *_MAPS, *_DEFINITIONS, *_SCHEMAS, *_COUNTS, *_NUMBERS),
        *("type", "enum", "const", "$ref", "required", "pattern", "format", "uniqueItems"),
    }
)


class SchemaError(RequestError):
    """A schema that is none, or that nothing can satisfy; the message has the path."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"invalid JSON schema in format: {path}: {text}")


def prepare(schema: dict[str, Any], strict: bool) -> tuple[dict[str, Any], list[str]]:
    """The schema to enforce, and the paths of what is not enforced in it.

    Raises SchemaError.
    """
    walk = _Walk(schema, strict)
    return walk.schema(schema, "#", 0, closed=True), walk.dropped


class _Walk:
    def __init__(self, root: dict[str, Any], strict: bool) -> None:
        self._root = root
        self._strict = strict
        self._nodes = 0
        self._open = _referenced_openly(root)
        self.dropped: list[str] = []

    def schema(self, value: Any, path: str, depth: int, closed: bool) -> Any:
        """closed: an object that does not say otherwise has only the properties it names."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise SchemaError(path, "a schema is an object or a boolean")
        if depth > _MAX_DEPTH:
            raise SchemaError(path, f"nested more than {_MAX_DEPTH} deep")
        self._count(path, len(value) + 1)
        kept: dict[str, Any] = {}
        for key, item in value.items():
            if key in _KEPT:
                self._keyword(kept, value, key, item, f"{path}/{_escape(key)}", depth, closed)
            elif key in _UNENFORCED and item is not None:
                self._drop(f"{path}/{_escape(key)}")
        _end(kept)
        for low, high in _PAIRS:
            if low in kept and high in kept and kept[low] > kept[high]:
                raise SchemaError(path, f"{low} ({kept[low]}) is greater than {high} ({kept[high]})")
        if path in self._open:
            closed = False
        return self._counted(self._close(self._merge(kept), closed), path)

    def _keyword(
        self,
        kept: dict[str, Any],
        schema: dict[str, Any],
        key: str,
        item: Any,
        path: str,
        depth: int,
        closed: bool,
    ) -> None:
        """Check one keyword and keep what of it can be enforced."""
        if key in _MAPS or key in _DEFINITIONS:
            if not isinstance(item, dict):
                raise SchemaError(path, "must be an object")
            found = {}
            for name, part in item.items():
                if key == "patternProperties" and not _is_regex(name):
                    self._drop(f"{path}/{_escape(name)}")
                    continue
                found[name] = self.schema(part, f"{path}/{_escape(name)}", depth + 1, True)
            kept[key] = found
        elif key == "items" and isinstance(item, list):  # before 2020-12
            kept["prefixItems"] = self._list(item, path, depth, True)
            if "additionalItems" in schema:
                rest = schema["additionalItems"]
                kept["items"] = self.schema(
                    rest, path.removesuffix("items") + "additionalItems", depth + 1, True
                )
        elif key in _LISTS:
            inner = closed and key != "allOf" and not any(k in schema for k in ("properties", "allOf"))
            kept[key] = self._list(item, path, depth, inner)
            if not kept[key]:
                raise SchemaError(path, "must not be empty")
        elif key == "additionalItems":
            pass  # belongs to a list of items
        elif key in _SCHEMAS:
            kept[key] = self.schema(item, path, depth + 1, True)
        elif key == "$ref":
            kept[key] = self._reference(item, path)
        else:
            self._assertion(kept, key, item, path)

    def _list(self, item: Any, path: str, depth: int, closed: bool) -> list[Any]:
        if not isinstance(item, list):
            raise SchemaError(path, "must be an array")
        return [self.schema(part, f"{path}/{i}", depth + 1, closed) for i, part in enumerate(item)]

    def _assertion(self, kept: dict[str, Any], key: str, item: Any, path: str) -> None:
        if key == "type":
            for name in item if isinstance(item, list) else [item]:
                if not isinstance(name, str) or name not in _TYPES:
                    raise SchemaError(path, f"unrecognized type {name}")
            kept[key] = item
        elif key == "enum":
            if not isinstance(item, list) or not item:
                raise SchemaError(path, "must be an array of values")
            self._count(path, _size(item))
            kept[key] = item
        elif key == "const":
            self._count(path, _size(item))
            kept[key] = item
        elif key == "required":
            if not isinstance(item, list) or not all(isinstance(name, str) for name in item):
                raise SchemaError(path, "must be an array of names")
            self._count(path, len(item))
            kept[key] = item
        elif key in _COUNTS:
            if isinstance(item, bool) or not isinstance(item, (int, float)) or item < 0 or item != int(item):
                raise SchemaError(path, "must be a whole number, zero or more")
            kept[key] = int(item)
        elif key in _NUMBERS:
            self._bound(kept, key, item, path)
        elif key == "uniqueItems":
            if item:
                self._drop(path)
        elif key == "pattern":
            if not isinstance(item, str):
                raise SchemaError(path, "must be a string")
            if _is_regex(item):
                kept[key] = item
            else:
                self._drop(path)
        elif not isinstance(item, str):
            raise SchemaError(path, "must be a string")
        elif item in _FORMATS:
            kept[key] = item
        else:
            self._drop(path)

    def _bound(self, kept: dict[str, Any], key: str, item: Any, path: str) -> None:
        if isinstance(item, bool) and key.startswith("exclusive"):  # draft 4: it speaks of minimum or maximum
            self.dropped += [path] if item else []
            if item and self._strict:
                raise SchemaError(path, "must be a number")
        elif (
            isinstance(item, bool)
            or not isinstance(item, (int, float))
            or (key == "multipleOf" and item <= 0)
        ):
            raise SchemaError(path, "must be a number" + (" above zero" if key == "multipleOf" else ""))
        elif _is_enforced(key, item):
            kept[key] = item
        else:
            self._drop(path)

    def _reference(self, item: Any, path: str) -> str:
        if not isinstance(item, str):
            raise SchemaError(path, "must be a string")
        if not item.startswith("#"):
            raise SchemaError(path, f"cannot resolve $ref {item}: only references into the schema itself")
        target: Any = self._root
        if item not in ("#", "#/"):
            for part in item.removeprefix("#").removeprefix("/").split("/"):
                name = _unescape(part)
                if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                    target = target[int(name)]
                elif isinstance(target, dict) and name in target:
                    target = target[name]
                else:
                    raise SchemaError(path, f"cannot resolve $ref {item}")
        if not isinstance(target, (dict, bool)):
            raise SchemaError(path, f"cannot resolve $ref {item}: no schema stands there")
        return "#" if item == "#/" else item

    def _merge(self, kept: dict[str, Any]) -> dict[str, Any]:
        """An allOf of plain objects as one object, which can be closed."""
        parts = kept.get("allOf")
        if parts is None or kept.keys() - {"allOf", "type", "properties", "required", *_DEFINITIONS}:
            return kept
        own = {key: kept[key] for key in ("type", "properties", "required") if key in kept}
        merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for part in [own, *parts]:
            plain = isinstance(part, dict) and not part.keys() - {"type", "properties", "required"}
            if not plain or part.get("type", "object") != "object":
                return kept
            for name, schema in part.get("properties", {}).items():
                if merged["properties"].setdefault(name, schema) != schema:
                    return kept
            merged["required"] += [
                name for name in part.get("required", []) if name not in merged["required"]
            ]
        if not any(isinstance(part, dict) and part.get("type") == "object" for part in [own, *parts]):
            return kept
        return {**{key: kept[key] for key in _DEFINITIONS if key in kept}, **merged}

    def _close(self, kept: dict[str, Any], closed: bool) -> dict[str, Any]:
        if not closed or "properties" not in kept or "additionalProperties" in kept:
            return kept
        if any(key in kept for key in (*_COMBINE, "$ref", "patternProperties", "minProperties")):
            return kept
        if any(name not in kept["properties"] for name in kept.get("required", [])):
            return kept
        return {**kept, "additionalProperties": False}

    def _counted(self, kept: dict[str, Any], path: str) -> dict[str, Any]:
        """minProperties and maxProperties, which are enforced only where every named property is required."""
        required = kept.get("required", [])
        named = kept.get("properties", {})
        free = any(name not in required for name in named) or any(
            k in kept for k in ("patternProperties", *_COMBINE)
        )
        if kept.get("minProperties", 1) <= len(set(required)):
            kept.pop("minProperties", None)
        if kept.get("additionalProperties") is False and kept.get("maxProperties", -1) >= len(named):
            del kept["maxProperties"]
        for key in ("minProperties", "maxProperties"):
            if key in kept and free:
                self._drop(f"{path}/{key}")
                del kept[key]
        return kept

    def _drop(self, path: str) -> None:
        if self._strict:
            raise SchemaError(path, "this keyword cannot be enforced, and the request is strict")
        self.dropped.append(path)

    def _count(self, path: str, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > _MAX_NODES:
            raise SchemaError(path, f"more than {_MAX_NODES} values")


def _end(kept: dict[str, Any]) -> None:
    """Bound what else could only go on, as small models do: formats without an end of their own, and multiples, as one
    followed by any number of zeros is none of six."""
    longest = _LONGEST.get(kept.get("format", ""))
    if longest is not None and "maxLength" not in kept and kept.get("minLength", 0) <= longest:
        kept["maxLength"] = longest
    if "multipleOf" in kept:
        if "minimum" not in kept and "exclusiveMinimum" not in kept:
            kept["minimum"] = -_LARGEST_MULTIPLE
        if "maximum" not in kept and "exclusiveMaximum" not in kept:
            kept["maximum"] = _LARGEST_MULTIPLE


def _referenced_openly(root: Any) -> set[str]:
    """Paths of the definitions that an allOf refers to, or a schema with more beside its $ref: closing them
    would leave no room for the rest."""
    found: set[str] = set()
    waiting = [(root, False)]
    while waiting:
        value, combined = waiting.pop()
        if isinstance(value, list):
            waiting += [(item, combined) for item in value]
        elif isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and (combined or "properties" in value or "allOf" in value):
                found.add(reference)
            waiting += [(item, key == "allOf") for key, item in value.items()]
    return found


def _is_regex(pattern: str) -> bool:
    """Whether llguidance compiles it: what it does not (look-around, back references) cannot be enforced."""
    return _compiles({"type": "string", "pattern": pattern})


def _is_enforced(key: str, number: float) -> bool:
    """Whether llguidance can write a bound, or a factor of so many digits, as a regular expression."""
    if key != "multipleOf":
        return number == 0 or _SMALLEST <= abs(number) <= _LARGEST
    return round(number, 3) == number < _LARGEST_FACTOR or _compiles({"type": "number", key: number})


def _compiles(schema: dict[str, Any]) -> bool:
    from llguidance import LLMatcher

    error: str = LLMatcher.validate_grammar(json.dumps({"grammars": [{"json_schema": schema}]}))
    return not error or error.startswith("WARNING")


def _size(value: Any) -> int:
    """Values in a value."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return count


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescape(part: str) -> str:
    from urllib.parse import unquote

    return unquote(part).replace("~1", "/").replace("~0", "~")
