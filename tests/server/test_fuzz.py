"""No body that the description of the API allows, or nearly allows, breaks the server.

OLLAMAPY_FUZZ_EXAMPLES=2000 python -m pytest tests/server/test_fuzz.py looks longer, and for other bodies every time.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import hypothesis.strategies as st
import pytest
import schemathesis
from schemathesis.generation import GenerationMode

from ollamapy.server.openapi import OPERATIONS, description
from ollamapy.store.names import ModelName
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.http import Patience
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.registry.pull import Transfers
from tests.engine.schemas import SchemaMaker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.harness import RunningServer

LONGER = int(os.environ.get("OLLAMAPY_FUZZ_EXAMPLES", "0"))
EXAMPLES = LONGER or 20  # of each endpoint and mode
FUZZED = [operation for operation in OPERATIONS if operation.body is not None]

# What a real Ollama answers with 500 as well; a failure of ours has other words.
OLLAMAS_OWN = re.compile(
    r'invalid format: .*; expected "json" or a valid JSON Schema object'
    r'|option "\w+" must be (of type \w+|an array of strings|a number|of an array of strings)'
    r"|license must be a text or a list of texts"
    r"|invalid digest format|blob sha256:\w+ (not found|is not in the store)|there are no weights to quantize"
    r"|unsupported quantization type .*"
    r'|pull model manifest: .*|(Get|Head|Post|Put|Patch) "https?://127\.0\.0\.1:.*'  # an unreachable registry
    r"|file does not exist"  # what a registry without it says to a push
    r"|context has a token that the model does not know"
    r"|model '127\.0\.0\.1.*' not found|the input length exceeds the context length"
)

# What is wrong with these ends most requests.
ENDING = [
    *(
        "tools",
        "tool_choice",
        "response_format",
        "output_config",
        "logit_bias",
        "top_logprobs",
        "n",
        "format",
    ),
    *("reasoning", "reasoning_effort", "think", "options"),
]

GRAMMARS: list[Any] = [
    {"type": "grammar", "syntax": "regex", "definition": "(a|b)+c"},
    {"type": "grammar", "syntax": "lark", "definition": 'start: "a" start?'},
    {"type": "grammar", "syntax": "lark", "definition": "start: ("},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    {"type": {}},
    {"minItems": 3, "maxItems": 2, "type": "array"},
    *(SchemaMaker(seed).make() for seed in range(20)),
]


class _Nothing(http.server.BaseHTTPRequestHandler):
    """A registry that has nothing and takes nothing."""

    def _answer(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"{}")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer  # names of http.server

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """host:port of a registry on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def apart(
    scripted: RunningServer, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunningServer:
    """The scripted server, which reaches nothing but loopback and waits for nobody."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    service, store = scripted.service, scripted.store
    patience = Patience(tries=1, blob_tries=1, first_delay=0.0, silence=5.0)
    service.transfers = Transfers(
        store, Downloads(store.blobs), lambda: RegistryKey.load(tmp_path / "key"), patience, True
    )
    store.copy(ModelName.parse("echo"), ModelName.parse(f"{registry}/library/echo"))
    return scripted


def aimed(path: str, body: dict[str, Any], draw: Any, registry: str) -> None:
    """Give a body what gets it past the names, else hardly anything would. The first choices lead to an answer: with
    them hypothesis begins."""
    if path in ("/api/pull", "/api/push"):  # always: other names would be looked up in the world
        names = [f"{registry}/library/echo", f"{registry}/none", "127.0.0.1:9/library/echo", "a b", "", 5, []]
        body["model"] = draw(st.sampled_from(names))
        body["name"] = f"{registry}/library/other"
    elif path == "/api/copy":
        body["source"] = draw(st.sampled_from(["echo", "missing", body.get("source")]))
        body["destination"] = draw(st.sampled_from(["copied", body.get("destination")]))
    elif path == "/api/create":
        body["model"] = draw(st.sampled_from(["made", body.get("model")]))
        body["from"] = draw(st.sampled_from(["echo", "missing", body.get("from"), None]))
        if not draw(st.booleans()):  # they end most requests
            for key in (
                "quantize",
                "quantization",
                "draft_quantize",
                "draft_files",
                "adapters",
                "remote_host",
            ):
                body.pop(key, None)
    elif (model := draw(st.sampled_from(["echo", "echo", "vectors", "missing", None]))) is not None:
        body["model"] = model
    if "messages" in body and draw(st.integers(0, 2)) < 2:
        body["messages"] = [{"role": "user", "content": "hello"}]
        for key in draw(st.sampled_from([ENDING, []])):
            body.pop(key, None)
    if path in ("/api/chat", "/api/generate") and draw(st.booleans()):
        body["format"] = draw(st.sampled_from(GRAMMARS))
    if path.startswith("/v1/chat") and draw(st.integers(0, 2)) == 0:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"schema": draw(st.sampled_from(GRAMMARS)), "strict": draw(st.booleans())},
        }


SUCCEEDED: dict[str, bool] = {}  # by path: whether one of its valid bodies was answered with 200


def send(server: RunningServer, method: str, path: str, body: Any) -> int:
    """Send a body; the answer is no failure of the server's. Returns its status."""
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body, default=str).encode()
    connection = http.client.HTTPConnection(server.host, timeout=30)
    connection.request(method.upper(), path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert "internal error" not in text, text
    if response.status >= 400:
        error = json.loads(text)["error"]
        words = error if isinstance(error, str) else error["message"]
        assert response.status < 500 or OLLAMAS_OWN.fullmatch(words), (response.status, words, body)
    return response.status


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize("operation", FUZZED, ids=[operation.path for operation in FUZZED])
def test_no_body_breaks_the_server(
    apart: RunningServer, registry: str, operation: Any, mode: GenerationMode
) -> None:
    seen: set[int] = set()
    path = operation.path
    described: Any = schemathesis.openapi.from_dict(description())[path][operation.method.upper()]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not LONGER,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(described.as_strategy(generation_mode=mode), st.data())
    def run(case: Any, data: Any) -> None:
        body = case.body
        if isinstance(body, dict):
            aimed(path, body, data.draw, registry)
        elif path in ("/api/pull", "/api/push"):
            hypothesis.assume(not isinstance(body, bytes))
        seen.add(send(apart, operation.method, path, body))

    run()
    assert seen & {400, 404}
    if mode is GenerationMode.POSITIVE:
        SUCCEEDED[path] = 200 in seen


def test_the_fuzz_gets_through_to_the_work() -> None:
    assert sum(SUCCEEDED.values()) >= 0.8 * len(SUCCEEDED), SUCCEEDED
