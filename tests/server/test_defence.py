"""Who may ask, how much, and with which key: the same for every dialect, each in its own shape of error."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ollamapy.server.app import ROUTES
from ollamapy.server.keys import KeysError, read_keys
from ollamapy.server.openapi import OPERATIONS
from tests.server.fake_engine import FakeEngine
from tests.server.full_bodies import BODIES, prepare
from tests.server.harness import RunningServer, add_gguf, tiny_gguf

# What each route is asked here. Of the other paths a test would reach registries, or write files.
ASKED: dict[str, Any] = {path: bodies[0] for path, bodies in BODIES.items()}
ASKED |= {path: {"model": "no name"} for path in ("/api/pull", "/api/push")}
WITH_BODIES = [(o.method.upper(), o.path, ASKED[o.path]) for o in OPERATIONS if o.body is not None]
EVERYWHERE = pytest.mark.parametrize(
    ("method", "path", "body"), WITH_BODIES, ids=[path for _, path, _ in WITH_BODIES]
)
_DIGEST = "sha256:" + hashlib.sha256(b"").hexdigest()
ALL_ROUTES = [
    (method, path.replace("{digest}", _DIGEST).replace("{id:.+}", "echo"), ASKED.get(path))
    for method, path, _ in ROUTES
]
ON_EVERY_ROUTE = pytest.mark.parametrize(
    ("method", "path", "body"), ALL_ROUTES, ids=[f"{method} {path}" for method, path, _ in ALL_ROUTES]
)


def expected(path: str) -> int:
    """The status of what each route is asked here."""
    return 400 if path in ("/api/pull", "/api/push") else 200


def send(
    server: RunningServer, method: str, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """status, JSON or text, headers."""
    connection = http.client.HTTPConnection(server.host, timeout=30)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
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
    if not path.startswith("/v1/"):
        assert value.keys() == {"error"} and isinstance(value["error"], str)
        return str(value["error"])
    if path.startswith("/v1/messages"):
        assert value.keys() == {"type", "error", "request_id"} and value["type"] == "error"
        assert value["error"].keys() == {"type", "message"}
    else:
        assert value.keys() == {"error"} and value["error"].keys() == {"message", "type", "param", "code"}
    return str(value["error"]["message"])


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that asks for one of two keys, `first` and `second`."""
    tmp_path = tmp_path_factory.mktemp("locked")
    digest = hashlib.sha256(b"second").hexdigest()
    keys = tmp_path / "keys"
    keys.write_text(f"# who may ask\n  # and who else\nfirst\n sha256:{digest} \n")
    server = RunningServer(tmp_path / "models", FakeEngine(), api_keys=read_keys(str(keys)))
    add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
    add_gguf(server.store, tiny_gguf(tmp_path / "b", "vectors", pooled=True), "vectors")
    prepare(server, **{"x-api-key": "first"})
    yield server
    server.close()


@ON_EVERY_ROUTE
def test_a_key_is_asked_for(locked: RunningServer, method: str, path: str, body: Any) -> None:
    wrong = ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"Authorization": "first"})
    for headers in wrong if path != "/" else ():
        status, value, sent = send(locked, method, path, body, headers)
        assert (status, sent["WWW-Authenticate"]) == (401, "Bearer")
        if method != "HEAD":
            assert "API key" in message_of(path, value)
    for headers in (
        {"Authorization": "Bearer first"},
        {"x-api-key": "second"},
        {"authorization": "bearer second"},
        *([{}] if path == "/" else []),
    ):
        if path == "/api/delete":
            prepare(locked, **{"x-api-key": "first"})
        status, value, _ = send(locked, method, path, body, headers)
        if path != f"/api/blobs/{_DIGEST}":
            assert status == expected(path), value
        else:
            assert status != 401


def test_a_digest_is_no_key_and_the_root_is_open(locked: RunningServer) -> None:
    digest = hashlib.sha256(b"second").hexdigest()
    for key in (digest, f"sha256:{digest}", "# and who else", ""):
        assert send(locked, "GET", "/api/tags", None, {"x-api-key": key})[0] == 401
    assert send(locked, "GET", "/", None)[:2] == (200, "Ollama is running")


@pytest.mark.parametrize("text", ["/nowhere/keys", "sha256:abc", " , "])
def test_keys_that_cannot_be_read_stop_the_server(text: str) -> None:
    with pytest.raises(KeysError):
        read_keys(text)


def test_no_keys_are_no_lock() -> None:
    assert read_keys("  ") == frozenset()


@ON_EVERY_ROUTE
def test_strange_origins_and_hosts_are_turned_away(
    scripted: RunningServer, method: str, path: str, body: Any
) -> None:
    if body is not None:
        prepare(scripted)
    assert send(scripted, method, path, body, {"Origin": "https://evil.example"})[:2] == (403, "")
    assert send(scripted, method, path, body, {"Host": "evil.example"})[:2] == (403, "")
    status, _, headers = send(scripted, method, path, body, {"Origin": "http://localhost:3000"})
    assert headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    if path != f"/api/blobs/{_DIGEST}":
        assert status == expected(path)


@EVERYWHERE
def test_bodies_are_bounded(scripted: RunningServer, method: str, path: str, body: Any) -> None:
    named = "source" if path == "/api/copy" else "model"
    deep = b'{"model": "echo", "messages": ' + b"[" * 600 + b"]" * 600 + b"}"
    for data, status, words in (
        (deep, 400, "depth"),
        (b"", 400, "EOF" if path.startswith("/v1/") else "missing request body"),
        (b'{"model": ', 400, "unexpected EOF"),
        (b'{"%s": 5}' % named.encode(), 400, named),
    ):
        got, value, _ = send(scripted, method, path, data)
        assert got == status
        assert words in message_of(path, value)
    connection = http.client.HTTPConnection(scripted.host, timeout=30)
    connection.putrequest(method, path)
    connection.putheader("Content-Length", str(2 << 30))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "too large" in message_of(path, json.loads(response.read()))
    connection.close()


def test_what_takes_a_body_is_described_as_such() -> None:
    """So that nothing is missing above: all that is sent to a server but files."""
    sent = {(method, path) for method, path, _ in ROUTES if method not in ("GET", "HEAD")}
    assert sent - {(method, path) for method, path, _ in WITH_BODIES} == {("POST", "/api/blobs/{digest}")}


ANSWERING = [
    case for case in WITH_BODIES if re.search("chat|generate|completions|responses|messages$", case[1])
]


@pytest.mark.parametrize(("method", "path", "body"), ANSWERING, ids=[path for _, path, _ in ANSWERING])
def test_unknown_models_and_failing_engines(
    scripted: RunningServer, method: str, path: str, body: Any
) -> None:
    status, value, _ = send(scripted, method, path, {**body, "model": "missing"})
    assert status == 404 and "missing" in message_of(path, value)
    said = "please fail now"
    asked = {"messages": [{"role": "user", "content": said}], "input": said, "prompt": said}
    failing = {"model": "echo", "max_tokens": 9, "stream": False, **{k: asked[k] for k in asked if k in body}}
    status, value, _ = send(scripted, method, path, failing)
    assert status == 500 and "the device failed" in message_of(path, value)
