"""A call that a renderer wrote into the history reads back with the parser of the same family."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ollamapy.prompt.parsers import FAMILIES, Setup, ToolCall
from ollamapy.prompt.renderers import names, renderer

PARSERS = {
    "deepseek3.1": "deepseek3",
    "gemma4-large": "gemma4",
    "gemma4-small": "gemma4-no-thinking",
    "olmo3.1": "olmo3",
    "qwen3.8": "qwen3.5",
}
WITHOUT_TOOLS = ("olmo3-think", "olmo3-32b-think")
ARGUMENTS = {
    "place": "Zürich, “old town”",
    "days": 3,
    "where": {"a": [1, "x"]},
    "parts": ["p", 2.5],
    "now": True,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "days": {"type": "integer"},
        "where": {"type": "object"},
        "parts": {"type": "array"},
        "now": {"type": "boolean"},
    },
    "required": ["place"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}
]
QUESTION = {"role": "user", "content": "How is it?"}
ANSWER = {
    "role": "assistant",
    "content": "Let me look.",
    "thinking": "I must ask.",
    "tool_calls": [{"id": "call_1", "function": {"name": "get_weather", "arguments": ARGUMENTS}}],
}
RESULT = {"role": "tool", "content": "21", "tool_name": "get_weather", "tool_call_id": "call_1"}


@pytest.mark.parametrize("name", [name for name in names() if name not in WITHOUT_TOOLS])
def test_round_trip(name: str) -> None:
    think = name != "deepseek3.1"  # whose turns before the last question have no thoughts
    writer = renderer(name)
    before = writer.render([QUESTION], TOOLS, think)
    after = writer.render([QUESTION, ANSWER, RESULT], TOOLS, think)
    same = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    )
    text = after[same:]
    parser = FAMILIES[PARSERS.get(name, name)](Setup(tools=TOOLS, think=think, last=QUESTION))
    pieces = [piece for character in text for piece in parser.push(character)] + parser.finish()
    assert [piece for piece in pieces if isinstance(piece, ToolCall)] == [ToolCall("get_weather", ARGUMENTS)]
