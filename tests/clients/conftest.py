"""A server on real models for the clients, with a model that can be offered tools."""

from __future__ import annotations

import json
import urllib.request
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

CHAT = "smollm2:135m"
TOOLS = "smollm2-tools"
EMBED = "all-minilm"

_TOOLS_TEMPLATE = """{{- if .Tools }}<|im_start|>system
Tools: {{ .Tools }}<|im_end|>
{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{- range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


@pytest.fixture(scope="session")
def live(server: RunningServer) -> RunningServer:
    """The server, with TOOLS beside its other models: SmolLM2 with a template that has places for tools."""
    body = {"model": TOOLS, "from": CHAT, "template": _TOOLS_TEMPLATE, "stream": False}
    request = urllib.request.Request(
        f"{server.url}/api/create", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["status"] == "success"
    return server


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """A client that warns of what it reads has read something it did not expect."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(w.message) for w in caught if issubclass(w.category, (UserWarning, RuntimeWarning))]
    assert texts == []
