"""The description of the API is one, and no body that it allows, or nearly allows, breaks the server."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import schemathesis
from schemathesis.generation import GenerationMode

from ollamapy.server.app import ROUTES
from ollamapy.server.openapi import description

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

# The others change the store, or ask the network.
FUZZED = [
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
]
EXAMPLES = 25  # of each endpoint and mode
MODELS = ["echo", "vectors", "missing", None]


def test_the_description_is_served_and_names_what_exists(scripted: RunningServer) -> None:
    connection = http.client.HTTPConnection(scripted.host)
    connection.request("GET", "/openapi.json")
    served = json.loads(connection.getresponse().read())
    connection.close()
    assert served == json.loads(json.dumps(description()))
    routes = {(method.lower(), path.replace(":.+", "")) for method, path, _ in ROUTES}
    described = {(method, path) for path, item in served["paths"].items() for method in item}
    assert described <= routes
    assert {path for _, path in described} >= set(FUZZED)


def _operation(path: str) -> Any:
    schema = schemathesis.openapi.from_dict(description())
    return schema[path]["POST"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("path", FUZZED)
def test_no_body_breaks_the_server(scripted: RunningServer, path: str, mode: GenerationMode) -> None:
    seen: set[int] = set()

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        _operation(path).as_strategy(generation_mode=mode), hypothesis.strategies.sampled_from(MODELS)
    )
    def send(case: Any, model: str | None) -> None:
        body = case.body
        if isinstance(body, dict) and model is not None:
            body["model"] = model  # else hardly anything would get past the name
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body, default=str).encode()
        connection = http.client.HTTPConnection(scripted.host, timeout=30)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        seen.add(response.status)
        assert response.status < 500, (response.status, text, body)
        if response.status >= 400:
            assert "error" in json.loads(text)

    send()
    assert 400 in seen or 404 in seen
