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
from ollamapy.prompt.parsers.cogito import CogitoParser
from ollamapy.prompt.parsers.cohere import CohereParser
from ollamapy.prompt.parsers.deepseek3 import DeepSeek3Parser
from ollamapy.prompt.parsers.functiongemma import FunctionGemmaParser
from ollamapy.prompt.parsers.gemma4 import Gemma4NoThinkingParser, Gemma4Parser
from ollamapy.prompt.parsers.glimmer import GlimmerParser
from ollamapy.prompt.parsers.glm import GLM47Parser, GLMParser
from ollamapy.prompt.parsers.harmony import HarmonyParser
from ollamapy.prompt.parsers.laguna import LagunaParser, LagunaV8Parser
from ollamapy.prompt.parsers.lfm2 import LFM2Parser, LFM2ThinkingParser
from ollamapy.prompt.parsers.ministral import MinistralParser
from ollamapy.prompt.parsers.nemotron3_nano import Nemotron3NanoParser
from ollamapy.prompt.parsers.olmo3 import Olmo3Parser
from ollamapy.prompt.parsers.olmo3_think import Olmo3ThinkParser
from ollamapy.prompt.parsers.passthrough import PassthroughParser
from ollamapy.prompt.parsers.qwen3 import Qwen3Parser, Qwen3ThinkingParser
from ollamapy.prompt.parsers.qwen3_coder import Qwen3CoderParser
from ollamapy.prompt.parsers.qwen3_vl import Qwen3VLParser, Qwen3VLThinkingParser
from ollamapy.prompt.parsers.qwen35 import Qwen35Parser

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
    "cogito": CogitoParser,
    "cohere": CohereParser,
    "deepseek3": DeepSeek3Parser,
    "functiongemma": FunctionGemmaParser,
    "gemma4": Gemma4Parser,
    "gemma4-no-thinking": Gemma4NoThinkingParser,
    "glimmer": GlimmerParser,
    "glm-4.7": GLM47Parser,
    "glm-ocr": GLMParser,
    "harmony": HarmonyParser,
    "laguna": LagunaParser,
    "lfm2": LFM2Parser,
    "lfm2-thinking": LFM2ThinkingParser,
    "ministral": MinistralParser,
    "nemotron-3-nano": Nemotron3NanoParser,
    "nemotron-3.5-nano": Nemotron3NanoParser,
    "olmo3": Olmo3Parser,
    "olmo3-think": Olmo3ThinkParser,
    "ornith": Qwen35Parser,
    "passthrough": PassthroughParser,
    "poolside-v1": LagunaV8Parser,
    "qwen3": Qwen3Parser,
    "qwen3-coder": Qwen3CoderParser,
    "qwen3-thinking": Qwen3ThinkingParser,
    "qwen3-vl-instruct": Qwen3VLParser,
    "qwen3-vl-thinking": Qwen3VLThinkingParser,
    "qwen3.5": Qwen35Parser,
}


def family(name: str) -> type[Parser] | None:
    """The parser of a name; None for a name that nobody knows, whose models' text is read as it is."""
    return FAMILIES.get(name)
