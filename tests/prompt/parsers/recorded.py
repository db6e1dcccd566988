"""Answers of a real Ollama to texts that scripted models wrote, and what of them is right.

recorded.json: a case names a parser or a template, the tools offered, think, and the text, as a string or as
pieces where some (marked by \\x01) are control tokens. `expect` lists the answers that are right, the recorded
one first; the others lose less of the text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.prompt.parsers import Content, ParseError, Parser, Setup, Thinking, family
from ollamapy.prompt.parsers.generic import GenericParser
from ollamapy.prompt.template_tags import Tags, call_tag, thinking_tags

_DATA = json.loads(Path(__file__).with_name("recorded.json").read_text("utf-8"))
CASES: list[dict[str, Any]] = _DATA["cases"]
TOOLS: list[list[dict[str, Any]]] = _DATA["tools"]
TEMPLATES: list[str] = _DATA["templates"]


def tags_of(template: str) -> Tags:
    tree = GoTemplate(template).tree
    return Tags(thinking_tags(tree), call_tag(tree))


def parser_of(case: dict[str, Any]) -> Parser:
    """The parser of a case as a server sets it up: who can think, does when nothing is said; a named parser
    of /api/generate only hears what is said."""
    kind = family(case.get("parser", ""))
    think = case.get("think")
    tools = TOOLS[case["tools"]]
    if kind is not None:
        if think is None and kind.has_thinking and not case.get("generate"):
            think = True
        return kind(Setup(tools, think))
    tags = tags_of(TEMPLATES[case["template"]])
    if think is None and tags.thinking and not case.get("raw"):
        think = True
    parser = GenericParser(Setup(tools, think), tags)
    if case["id"].startswith("think.opened"):
        parser.follow("a prompt that ends in <think>\n" if think else "a prompt")
    return parser


def text_of(case: dict[str, Any], parser: Parser) -> list[str]:
    """The text as it reaches the parser: control tokens only if it asks for them."""
    if isinstance(case["text"], str):
        return list(case["text"])
    pieces = (p if p[:1] != "\x01" else p[1:] * (p[1:] in parser.visible) for p in case["text"])
    return [piece for piece in pieces if piece]


def read(parser: Parser, pieces: list[str]) -> dict[str, Any]:
    """What a parser makes of a text that comes in pieces, in the form of `expect`."""
    found: dict[str, Any] = {"text": "", "order": []}
    try:
        for piece in [part for p in pieces for part in parser.push(p)] + parser.finish():
            if isinstance(piece, Content):
                found["text"] += piece.text
                kind = "text"
            elif isinstance(piece, Thinking):
                found["thinking"] = found.get("thinking", "") + piece.text
                kind = "thinking"
            else:
                found.setdefault("calls", []).append([piece.name, piece.arguments])
                kind = "call"
            if found["order"][-1:] != [kind]:
                found["order"].append(kind)
    except ParseError as error:
        return {"error": str(error)}
    return found
