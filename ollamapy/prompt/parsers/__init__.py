"""Parsers by name, as a Modelfile's PARSER asks for them.

Each family is one file whose classes say their names, imported here by one line.
"""

from __future__ import annotations

from ollamapy.prompt.parsers import (  # noqa: F401 (importing a family makes its names known)
    cogito,
    cohere,
    deepseek3,
    functiongemma,
    gemma4,
    glimmer,
    glm,
    harmony,
    laguna,
    lfm2,
    ministral,
    nemotron3_nano,
    olmo3,
    olmo3_think,
    passthrough,
    qwen3,
    qwen3_coder,
    qwen3_vl,
    qwen35,
)
from ollamapy.prompt.parsers.base import (
    FAMILIES,
    Content,
    ParseError,
    Parser,
    Piece,
    Setup,
    Thinking,
    ToolCall,
    call_id,
    family,
)

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
