"""The search of OpenAI's and Anthropic's own servers: agents offer it with every request and are served; a model
that calls it is told on the client's side that there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from ollamapy.engine.engine import Engine
from tests.clients.scripted_model import build
from tests.server.harness import RunningServer, add_gguf

_TEMPLATE = """{{- range .Tools }}[{{ .Function.Name }}]{{ end }}{{- range .Messages }}{{ .Content }}
{{- if .ToolCalls }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}{{ end }}{{ end }}<|search|>"""
_TEXT = "I look it up."
_CALL = '<tool_call>\n{"name": "web_search", "arguments": {"query": "Zürich"}}\n</tool_call>'
_OWN: Any = {"name": "web_search", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a model `searcher` that searches."""
    folder = tmp_path_factory.mktemp("searcher")
    server = RunningServer(folder / "models", Engine)
    add_gguf(server.store, build(folder / "searcher.gguf", {"<|search|>": _TEXT + _CALL}), "base")
    body = {"model": "searcher", "from": "base", "template": _TEMPLATE, "stream": False}
    assert httpx.post(f"{server.url}/api/create", json=body, timeout=30).json() == {"status": "success"}
    yield server
    server.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_anthropic(searching: RunningServer, stream: bool) -> None:
    client = anthropic.Anthropic(base_url=searching.url, api_key="unused", max_retries=0)
    arguments: dict[str, Any] = {
        "model": "searcher",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "Where?"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}, _OWN],
    }
    if stream:
        with client.messages.stream(**arguments) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**arguments)
    text, use, result = message.content
    assert text.type == "text" and text.text == _TEXT
    assert use.type == "server_tool_use" and use.input == {"query": "Zürich"}
    assert result.type == "web_search_tool_result" and result.tool_use_id == use.id
    assert not isinstance(result.content, list) and result.content.error_code == "unavailable"
    assert message.stop_reason == "end_turn"
    history = [{"role": "assistant", "content": [block.model_dump() for block in message.content]}]
    arguments["messages"] = [*arguments["messages"], *history, {"role": "user", "content": "Go on."}]
    assert client.messages.create(**arguments).stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_openai(searching: RunningServer, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{searching.url}/v1", api_key="unused", max_retries=0)
    arguments: dict[str, Any] = {"model": "searcher", "input": "Where?", "tools": [{"type": "web_search"}]}
    if stream:
        with client.responses.stream(**arguments) as events:
            kinds = [event.type for event in events]
            response = events.get_final_response()
        assert "response.web_search_call.searching" in kinds
    else:
        response = client.responses.create(**arguments)
    message, search = response.output
    assert message.type == "message" and response.output_text == _TEXT
    assert search.type == "web_search_call" and search.status == "failed"
    assert search.action.type == "search" and search.action.query == "Zürich"
    assert response.status == "completed"
    arguments["input"] = [
        {"role": "user", "content": "Where?"},
        *(item.model_dump() for item in response.output),
    ]
    assert client.responses.create(**arguments).status == "completed"
