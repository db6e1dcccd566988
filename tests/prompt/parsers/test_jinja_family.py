"""A Jinja template tells whose calls its model writes; its prompt tells whether a thought is open."""

from __future__ import annotations

import pytest

from ollamapy.prompt.parsers import Content, Setup, Thinking, ToolCall, family
from ollamapy.prompt.parsers.base import Parser, Piece
from ollamapy.prompt.parsers.jinja_family import jinja_family

CODER = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}},
    }
]
CALL = ToolCall("add", {"a": 1})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<|start|>assistant<|channel|>analysis<|message|>' }}", "harmony"),
        ("<tool_call>\n<function=x>\n<parameter=y>", "qwen3-coder"),
        ("<think></think><function=x><parameter=y>", "qwen3.5"),
        ("<tool_call>x<arg_key>y</arg_key><arg_value>z</arg_value>", "glm-4.7"),
        ("<｜tool▁calls▁begin｜>…```json", "cogito"),
        ("<｜tool▁calls▁begin｜>…", "deepseek3"),
        ("[TOOL_CALLS]x[ARGS]", "ministral"),
        ("<|tool_call_start|></think>", "lfm2-thinking"),
        ("<tool_call>{{ tool_call | tojson }}</tool_call>", ""),
        ("{{ messages }}", ""),
    ],
)
def test_marks(source: str, name: str) -> None:
    assert jinja_family(source) == name
    assert not name or family(name) is not None


def read(name: str, prompt: str, text: str, think: bool) -> list[Piece]:
    kind = family(name)
    assert kind is not None and issubclass(kind, Parser)
    parser = kind(Setup(TOOLS, think))
    parser.by_prompt = True
    parser.follow(prompt)
    return parser.push(text) + parser.finish()


@pytest.mark.parametrize("name", ["qwen3.5", "deepseek3", "glm-4.7", "lfm2-thinking"])
def test_the_prompt_opens_the_thought_or_the_model_does(name: str) -> None:
    said = [Thinking("so"), Content("yes")]
    assert read(name, "…<think>\n", "so</think>yes", True) == said
    assert read(name, "…", "<think>so</think>yes", True) == said
    assert read(name, "…<think>\n\n</think>\n\n", "yes", True) == [Content("yes")]
    assert read(name, "…", "yes", False) == [Content("yes")]


def test_calls_behind_a_thought() -> None:
    assert read("qwen3.5", "…<think>\n", "so\n</think>\n\n" + CODER, True) == [Thinking("so"), CALL]
    assert read("qwen3.5", "…", CODER, True) == [CALL]


def test_headers_need_no_prompt() -> None:
    text = "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>yes"
    assert read("harmony", "<|start|>assistant", text, True) == [Thinking("so"), Content("yes")]
