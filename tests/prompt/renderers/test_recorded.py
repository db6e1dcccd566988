"""Every renderer writes the prompts that Ollama wrote.

recorded.json has conversations by name, and per case a renderer, a conversation, whether to think and the
prompt; <DATE> stands for the day it was recorded. golden/renderers has odd conversations that
golden/record_renderers.py drew.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from ollamapy.prompt.renderers import names, renderer
from ollamapy.types import RequestError

_DRAWN = json.loads((Path(__file__).parents[2] / "golden" / "renderers" / "prompts.json").read_text("utf-8"))
_RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))


def _dated(prompt: str) -> str:
    return prompt.replace(datetime.date.today().isoformat(), "<DATE>")


@pytest.mark.parametrize(
    "case", _RECORDED["cases"], ids=lambda case: f"{case['renderer']}-{case['request']}-{case['think']}"
)
def test_prompt(case: dict[str, Any]) -> None:
    request = _RECORDED["requests"][case["request"]]
    before = json.dumps(request)
    prompt = renderer(case["renderer"]).render(request["messages"], request.get("tools"), case["think"])
    assert _dated(prompt) == case["prompt"]
    assert json.dumps(request) == before


@pytest.mark.parametrize("case", _DRAWN, ids=lambda case: case["renderer"])
def test_odd_prompt(case: dict[str, Any]) -> None:
    writer = renderer(case["renderer"])
    if "error" in case:
        with pytest.raises(RequestError) as caught:
            writer.render(case["messages"], case.get("tools"), case["think"])
        assert str(caught.value) == case["error"]
    else:
        prompt = writer.render(case["messages"], case.get("tools"), case["think"])
        assert _dated(prompt) == case["prompt"]


@pytest.mark.parametrize("name", names())
def test_depth_is_no_crash(name: str) -> None:
    """Deep values are written, or refused as the client's mistake."""
    value: Any = 1
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(400):
        value, schema = {"k": [value]}, {"type": "object", "properties": {"a": schema}, "items": value}
    call = {"function": {"name": "f", "arguments": {"a": value}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    try:
        assert "x" in renderer(name).render(messages, [tool])
    except RequestError as error:
        assert error.status == 400
        assert "deep" in str(error)


def test_wrong_types_are_refused() -> None:
    for parameters in ({"properties": []}, {"required": "x"}, {"type": 1}, {"properties": {"a": 3}}):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        with pytest.raises(RequestError, match="invalid tool"):
            renderer("qwen3-coder").render([{"role": "user", "content": "x"}], [tool])


def test_every_renderer_is_recorded() -> None:
    assert {case["renderer"] for case in _RECORDED["cases"]} == set(names())
