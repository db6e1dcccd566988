"""The example of docs/families.md works as the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollamapy.prompt.parsers import FAMILIES, Content, Parser, Piece, Setup, Thinking, ToolCall
from ollamapy.prompt.renderers import registry, renderer

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
CALL = {"function": {"name": "look_up", "arguments": {"word": "plume", "deep": {"b": 1, "a": None}}}}


@pytest.fixture(scope="module")
def parser() -> Iterator[type[Parser]]:
    """Runs both programs: renderer and parser have their name until the module's end. This is the parser."""
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(programs) == 2
    names: dict[str, Any] = {"__name__": "quill"}
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    yield FAMILIES["quill"]
    del registry._RENDERERS["quill"], FAMILIES["quill"]


def pieces(parser: Parser, text: str, cut: bool = False) -> list[Piece]:
    found: list[Piece] = []
    for character in text:
        for piece in parser.push(character):
            if found and isinstance(piece, Content) and isinstance(found[-1], Content):
                piece = Content(found.pop().text + piece.text)  # type: ignore[union-attr]
            elif found and isinstance(piece, Thinking) and isinstance(found[-1], Thinking):
                piece = Thinking(found.pop().text + piece.text)  # type: ignore[union-attr]
            found.append(piece)
    return found + parser.finish(cut)


def test_renderer(parser: type[Parser]) -> None:
    messages = [
        {"role": "user", "content": "What is [img]?", "images": ["AA=="]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ]
    prompt = renderer("quill").render(
        messages, [{"type": "function", "function": {"name": "look_up"}}], "high"
    )
    assert prompt == (
        '<quill>@tool {"type": "function", "function": {"name": "look_up", "parameters": '
        '{"type": "", "properties": null}}}\n'
        "@user What is [img-0]?\n"
        '@assistant @call look_up {"word":"plume","deep":{"a":null,"b":1}}@end\n'
        "@assistant @think "
    )


def test_parser(parser: type[Parser]) -> None:
    text = 'A word. @done Wait:@call look_up {"word":"plume"}@end@call x@end'
    call = ToolCall("look_up", {"word": "plume"})
    assert pieces(parser(Setup(think=True)), text) == [
        Thinking("A word."),
        Content("Wait:"),
        call,
        Content("@call x@end"),
    ]


def test_a_call_that_is_cut(parser: type[Parser]) -> None:
    reader = parser(Setup())
    assert pieces(reader, 'So: @call look_up {"wo', cut=True) == [
        Content("So: "),
        Content('@call look_up {"wo'),
    ]
    assert reader.unfinished_call
