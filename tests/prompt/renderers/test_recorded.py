"""Every renderer writes the prompts that Ollama 0.99.0 wrote.

recorded.json has conversations by name, and per case a renderer, a conversation, whether to think and the
prompt; <DATE> stands for the day it was recorded.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from ollamapy.prompt.renderers import names, renderer

_RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "case", _RECORDED["cases"], ids=lambda case: f"{case['renderer']}-{case['request']}-{case['think']}"
)
def test_prompt(case: dict[str, Any]) -> None:
    request = _RECORDED["requests"][case["request"]]
    before = json.dumps(request)
    prompt = renderer(case["renderer"]).render(request["messages"], request.get("tools"), case["think"])
    assert prompt.replace(datetime.date.today().isoformat(), "<DATE>") == case["prompt"]
    assert json.dumps(request) == before


def test_every_renderer_is_recorded() -> None:
    assert {case["renderer"] for case in _RECORDED["cases"]} == set(names())
