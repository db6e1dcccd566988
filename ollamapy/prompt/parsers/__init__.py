"""Parsers by name, as a Modelfile's PARSER asks for them.

To add a family: a file with a class (see base.py), and a line in FAMILIES.
"""

from __future__ import annotations

from ollamapy.prompt.parsers.base import (
    Content,
    ParseError,
    Parser,
    Piece,
    Setup,
    Thinking,
    ToolCall,
    call_id,
)
from ollamapy.prompt.parsers.passthrough import PassthroughParser

__all__ = [
    "FAMILIES",
    "Content",
    "ParseError",
    "Parser",
    "Piece",
    "Setup",
    "Thinking",
    "ToolCall",
    "call_id",
    "family",
]

FAMILIES: dict[str, type[Parser]] = {
    "passthrough": PassthroughParser,
}


def family(name: str) -> type[Parser] | None:
    """The parser of a name; None for a name that nobody knows, whose models' text is read as it is."""
    return FAMILIES.get(name)
