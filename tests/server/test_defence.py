"""Who may ask, how much, and with which key: the same for every dialect, each in its own shape of error."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollamapy.server.keys import KeysError, read_keys
from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer, add_gguf, tiny_gguf

ASK = [{"role": "user", "content": "hello"}]
ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": ASK}),
    ("/api/generate", {"prompt": "hello"}),
    ("/v1/chat/completions", {"messages": ASK}),
    ("/v1/completions", {"prompt": "hello"}),
    ("/v1/responses", {"input": "hello"}),
    ("/v1/messages", {"messages": ASK, "max_tokens": 9}),
    ("/v1/messages/count_tokens", {"messages": ASK}),
]
EVERYWHERE = pytest.mark.parametrize(("path", "body"), ENDPOINTS, ids=[path for path, _ in ENDPOINTS])


def send(
    server: RunningServer, path: str, body: Any, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, Any, dict[str, str]]:
    """status, JSON or text, headers."""
    connection = http.client.HTTPConnection(server.host, timeout=30)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps({"model": "echo", **body}).encode()
    try:
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        value = json.loads(text) if text.startswith("{") and "\n" not in text.strip() else text
        return response.status, value, dict(response.headers)
    finally:
        connection.close()


def message_of(path: str, value: Any) -> str:
    """The text of an error, which must have the shape of its dialect and no other."""
    if path.startswith("/api"):
        assert value.keys() == {"error"} and isinstance(value["error"], str)
        return str(value["error"])
    if path.startswith("/v1/messages"):
        assert value.keys() == {"type", "error", "request_id"} and value["type"] == "error"
        assert value["error"].keys() == {"type", "message"}
    else:
        assert value.keys() == {"error"} and value["error"].keys() == {"message", "type", "param", "code"}
    return str(value["error"]["message"])


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RunningServer]:
    digest = hashlib.sha256(b"second").hexdigest()
    keys = tmp_path / "keys"
    keys.write_text(f"# who may ask\n  # and who else\nfirst\n sha256:{digest} \n")
    server = RunningServer(tmp_path / "models", FakeEngine(), api_keys=read_keys(str(keys)))
    add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
    yield server
    server.close()


@EVERYWHERE
def test_a_key_is_asked_for(locked: RunningServer, path: str, body: dict[str, Any]) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"x-api-key": "wrong"},
        {"Authorization": "first"},
    ):
        status, value, sent = send(locked, path, body, headers)
        assert (status, sent["WWW-Authenticate"]) == (401, "Bearer")
        assert "API key" in message_of(path, value)
    for headers in (
        {"Authorization": "Bearer first"},
        {"x-api-key": "second"},
        {"authorization": "bearer second"},
    ):
        assert send(locked, path, body, headers)[0] == 200


def test_a_digest_is_no_key_and_the_root_is_open(locked: RunningServer) -> None:
    digest = hashlib.sha256(b"second").hexdigest()
    for key in (digest, f"sha256:{digest}", "# and who else", ""):
        assert send(locked, "/api/tags", None, {"x-api-key": key}, "GET")[0] == 401
    assert send(locked, "/", None, {}, "GET")[:2] == (200, "Ollama is running")


@pytest.mark.parametrize("text", ["/nowhere/keys", "sha256:abc", " , "])
def test_keys_that_cannot_be_read_stop_the_server(text: str) -> None:
    with pytest.raises(KeysError):
        read_keys(text)


def test_no_keys_are_no_lock() -> None:
    assert read_keys("  ") == frozenset()


@EVERYWHERE
def test_strange_origins_and_hosts_are_turned_away(
    scripted: RunningServer, path: str, body: dict[str, Any]
) -> None:
    assert send(scripted, path, body, {"Origin": "https://evil.example"})[:2] == (403, "")
    assert send(scripted, path, body, {"Host": "evil.example"})[:2] == (403, "")
    assert send(scripted, path, body, {"Origin": "http://localhost:3000"})[0] == 200


@EVERYWHERE
def test_bodies_are_bounded(scripted: RunningServer, path: str, body: dict[str, Any]) -> None:
    deep = b'{"model": "echo", "messages": ' + b"[" * 600 + b"]" * 600 + b"}"
    for data, status, words in (
        (deep, 400, "depth"),
        (b"", 400, "missing request body" if path.startswith("/api") else "EOF"),
        (b'{"model": ', 400, "unexpected EOF"),
        (b'{"model": 5}', 400, "model"),
    ):
        got, value, _ = send(scripted, path, data)
        assert got == status
        assert words in message_of(path, value)
    connection = http.client.HTTPConnection(scripted.host, timeout=30)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(2 << 30))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "too large" in message_of(path, json.loads(response.read()))
    connection.close()


@EVERYWHERE
def test_unknown_models_and_failing_engines(scripted: RunningServer, path: str, body: dict[str, Any]) -> None:
    status, value, _ = send(scripted, path, {**body, "model": "missing"})
    assert status == 404 and "missing" in message_of(path, value)
    if path.endswith("count_tokens"):
        return  # asks the engine nothing
    failing = json.loads(json.dumps(body).replace("hello", "please fail now"))
    status, value, _ = send(scripted, path, {**failing, "stream": False})
    assert status == 500 and "the device failed" in message_of(path, value)
