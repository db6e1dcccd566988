"""How Gemma writes values: keys sorted, strings between marks of their own instead of quotes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollamapy.prompt.gotemplate.printing import show


@dataclass(frozen=True)
class Notation:
    """mark: what stands around a string. null: what None is. keys: whether keys stand between marks too."""

    mark: str
    null: str = "null"
    keys: bool = False

    def string(self, text: str) -> str:
        return f"{self.mark}{text}{self.mark}"

    def strings(self, texts: list[str] | tuple[str, ...]) -> str:
        """A list of strings."""
        return "[" + ",".join(map(self.string, texts)) + "]"

    def value(self, value: Any) -> str:
        """Any JSON; whole numbers are written as integers."""
        if value is None:
            return self.null
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
            return str(int(value))
        if isinstance(value, list):
            return "[" + ",".join(map(self.value, value)) + "]"
        if isinstance(value, dict):
            return "{" + self.fields(value) + "}"
        return show(value)

    def fields(self, values: Mapping[str, Any]) -> str:
        """The fields of an object, without its braces."""
        return ",".join(
            f"{self.string(key) if self.keys else key}:{self.value(values[key])}" for key in sorted(values)
        )
