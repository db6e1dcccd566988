"""Servers on the real engine for the clients: one with models that play their part in a tool loop, one with real
models, of which one can be offered tools."""

from __future__ import annotations

import json
import logging
import os
import urllib.request
import warnings
from collections.abc import Iterator

import httpx
import pytest

from ollamapy.engine.engine import Engine
from tests.clients.scripted_model import build
from tests.server.harness import RunningServer, add_gguf

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = (
    "True"  # before its import, which else asks the network for prices
)

CHAT = "smollm2:135m"
TOOLS = "smollm2-tools"
EMBED = "all-minilm"

_OFFERING = """{{- if .Tools }}<|im_start|>system
Tools: {{ .Tools }}<|im_end|>
{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{- range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

MODEL = "agent"
CODER = "coder"
QUESTION = "How is the weather in Zürich?"
RESULT = "21 °C, “sunny” & <calm>"
THOUGHT = "I have to ask the station."
WORDS = "Let me look."
ANSWER = "In Zürich it is 21 °C and sunny."
QUESTION_TWO = "And in Genève and Zürich?"
RESULT_TWO = "25 °C"
ANSWER_TWO = "Genève: 25 °C. Zürich is as above."

_CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"place": "PLACE", "unit": "celsius"}}\n</tool_call>'
)
SCRIPTS = {
    "<|ask|>": f"<think>{THOUGHT}</think>\n\n{WORDS}{_CALL.replace('PLACE', 'Zürich')}",
    "<|ask-two|>": _CALL.replace("PLACE", "Genève") + "\n" + _CALL.replace("PLACE", "Zürich"),
    "<|answer|>": ANSWER,
    "<|answer-two|>": ANSWER_TWO,
    "<|lost|>": "I do not know what came of my call.",
}
_CODER_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=place>\nPLACE\n</parameter>\n"
    "<parameter=unit>\ncelsius\n</parameter>\n</function>\n</tool_call>"
)
CODER_SCRIPTS = SCRIPTS | {
    "<|ask|>": WORDS + "\n" + _CODER_CALL.replace("PLACE", "Zürich"),
    "<|ask-two|>": _CODER_CALL.replace("PLACE", "Genève") + "\n" + _CODER_CALL.replace("PLACE", "Zürich"),
}

# The prompt ends with the marker of what the model shall say: what it asked and what it was told since the last
# question must be there as it was, or it says that something got lost.
_TEMPLATE = """
{{- $asked := "" }}{{ $told := "" }}{{ $question := "" }}
{{- range .Tools }}[{{ .Function.Name }}]{{ end }}
{{- range .Messages }}
{{- if eq .Role "user" }}{{ $question = .Content }}{{ $asked = "" }}{{ $told = "" }}
{{- else if eq .Role "tool" }}{{ $told = print $told .Content ";" }}
{{- end }}<|{{ .Role }}|>
{{- if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- if .ToolCalls }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ $asked = print $asked .Function.Name .Function.Arguments.place ";" }}{{ end }}{{ end }}
{{- end }}
{{- if not $told }}{{ if eq $question "QUESTION" }}<|ask|>{{ else }}<|ask-two|>{{ end }}
{{- else if and (eq $asked "get_weatherZürich;") (eq $told "RESULT;") }}<|answer|>
{{- else if and (eq $asked "get_weatherGenève;get_weatherZürich;") (eq $told "RESULT_TWO;RESULT;") }}<|answer-two|>
{{- else }}<|lost|>{{ end }}"""
TEMPLATE = _TEMPLATE.replace("QUESTION", QUESTION).replace("RESULT_TWO", RESULT_TWO).replace("RESULT", RESULT)


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two models that call get_weather once, or for QUESTION_TWO twice, and answer.

    `agent` thinks first, and calls as its template does; `coder` calls as its parser wants it.
    """
    folder = tmp_path_factory.mktemp("agent")
    server = RunningServer(folder / "models", Engine)
    for name, scripts, parser in ((MODEL, SCRIPTS, ""), (CODER, CODER_SCRIPTS, "qwen3-coder")):
        add_gguf(server.store, build(folder / f"{name}.gguf", scripts), f"scripted-{name}")
        body = {
            "model": name,
            "from": f"scripted-{name}",
            "template": TEMPLATE,
            "parser": parser,
            "stream": False,
        }
        response = httpx.post(f"{server.url}/api/create", json=body, timeout=30)
        assert response.json() == {"status": "success"}
    yield server
    server.close()


@pytest.fixture(scope="session")
def live(server: RunningServer) -> RunningServer:
    """The server, with TOOLS beside its other models: SmolLM2 with a template that has places for tools."""
    body = {"model": TOOLS, "from": CHAT, "template": _OFFERING, "stream": False}
    request = urllib.request.Request(
        f"{server.url}/api/create", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["status"] == "success"
    return server


# What a library says of itself, whoever it talks to: old calls, connections that it leaves open.
_OF_THEMSELVES = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
_OF_THEIR_TYPES = "using the `ReadOnly` qualifier"  # litellm's, when it first builds its own classes


class _Complaints(logging.Handler):
    """What clients log. The server, which runs beside them, logs as ollamapy and aiohttp."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] not in ("ollamapy", "aiohttp", "asyncio"):
            self.texts.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def no_complaints() -> Iterator[None]:
    """A client that warns, or logs a warning, of what it reads has read something it did not expect."""
    handler = _Complaints()
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logging.getLogger().removeHandler(handler)
    texts = [
        f"{w.category.__name__}: {w.message}"
        for w in caught
        if not issubclass(w.category, _OF_THEMSELVES) and _OF_THEIR_TYPES not in str(w.message)
    ]
    assert texts + handler.texts == []
