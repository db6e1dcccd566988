"""Calls that a request insists on: what the grammar lets pass is what the parser reads."""

from __future__ import annotations

from typing import Any

import pytest

from ollamapy.engine.constrained_grammar import checked
from ollamapy.prompt.parsers import Content, Piece, Setup, Thinking, ToolCall
from ollamapy.prompt.parsers.forced import forced_grammar, forced_parser
from ollamapy.prompt.parsers.generic import GenericParser
from ollamapy.prompt.template_tags import Tags
from ollamapy.types import RequestError

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "get", "parameters": {"properties": {"k": {"type": "string"}}}},
    },
    {"type": "function", "function": {"name": 'odd "name"'}},
]
CALL = ToolCall("get", {"k": "}"})


def read(prompt: str, text: str, width: int) -> tuple[str, list[Piece]]:
    """The thought, and everything else."""
    setup = Setup(TOOLS, True)
    parser = forced_parser(GenericParser(setup, Tags(("<think>", "</think>"))), setup)
    parser.follow(prompt)
    pieces = [
        p for at in range(0, len(text), width) for p in parser.push(text[at : at + width])
    ] + parser.finish()
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thinking))
    return thought, [piece for piece in pieces if not isinstance(piece, Thinking)]


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_calls_with_and_without_a_thought(width: int) -> None:
    one = '{"name": "get", "arguments": {"k": "}"}}'
    assert read("q", one, width) == ("", [CALL])
    assert read("q", f"{one}\n{one}", width) == ("", [CALL, CALL])
    assert read("q", f'<think>so {{"a": 1}}</think>\n\n{one}', width) == ('so {"a": 1}', [CALL])
    assert read("q<think>\n", f"so</think>{one}", width) == ("so", [CALL])


def test_a_cut_call_is_none() -> None:
    thought, rest = read("q", '{"name": "get", "argum', 1000)
    assert thought == "" and not [piece for piece in rest if not isinstance(piece, Content)]


@pytest.mark.parametrize("parallel", [False, True])
def test_the_grammar_compiles(parallel: bool) -> None:
    assert checked(forced_grammar(TOOLS, parallel))


@pytest.mark.parametrize(
    "tool", [{}, {"function": {}}, {"function": {"name": 5}}, {"function": {"name": "x", "parameters": 5}}]
)
def test_tools_that_are_none_are_refused(tool: Any) -> None:
    with pytest.raises(RequestError):
        forced_grammar([{"type": "function", **tool}], False)
