"""The log: a line for every request that has ended, with an id that the client knows too."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ollamapy.engine.loop import TRACE
from ollamapy.server.logs import JSONFormatter, LogfmtFormatter, configure, log_level
from ollamapy.server.settings import Settings
from tests.server.harness import RunningServer
from tests.server.test_native import wait_until

SECRET = "zanzibar"  # a word that only prompts have


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    """The lines of the log, as JSON, while a test runs."""
    lines: list[dict[str, Any]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Collect()
    handler.setFormatter(JSONFormatter())
    logger = logging.getLogger("ollamapy")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(TRACE)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


def requests(log: list[dict[str, Any]], ident: str) -> list[dict[str, Any]]:
    return [line for line in log if line["msg"] == "request" and line["id"] == ident]


def finished(log: list[dict[str, Any]], ident: str) -> dict[str, Any]:
    """The one line of a request, waited for: it is written after the answer has been sent."""
    wait_until(lambda: requests(log, ident), 10)
    (line,) = requests(log, ident)
    return line


def test_a_generation_has_a_line_with_its_figures(server: RunningServer, log: list[dict[str, Any]]) -> None:
    body = {
        "model": "smollm2:135m",
        "prompt": f"{SECRET} one two three four five six seven",
        "raw": True,
        "options": {"num_predict": 3, "temperature": 0},
    }
    for ident in ("first", "again"):
        answer = httpx.post(
            server.url + "/api/generate", json=body, headers={"X-Request-Id": ident}, timeout=60
        )
        assert answer.headers["X-Request-Id"] == ident
        last = json.loads(answer.text.strip().split("\n")[-1])
        line = finished(log, ident)
        assert (line["method"], line["path"], line["status"]) == ("POST", "/api/generate", 200)
        assert (line["model"], line["end"]) == ("smollm2:135m", "length")
        assert line["prompt_tokens"] == last["prompt_eval_count"]
        assert line["eval_tokens"] == last["eval_count"] == 3
        assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"]
        assert line["load_ms"] == round(last["load_duration"] / 1e6, 1)
    assert requests(log, "again")[0]["cached_tokens"] >= last["prompt_eval_count"] - 1
    assert SECRET not in json.dumps(log)
    per_token = [line for line in log if line.get("id") == "again" and line["level"] != "TRACE"]
    assert per_token == requests(log, "again"), "one line for a request, whatever its length"


def test_a_client_that_leaves_is_said_to_have_left(
    scripted: RunningServer, log: list[dict[str, Any]]
) -> None:
    body = json.dumps({"model": "echo", "prompt": "slow", "raw": True}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: {scripted.host}\r\nX-Request-Id: left\r\n"
    with socket.create_connection(("127.0.0.1", scripted.port)) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while b'"done":false' not in answer:
            answer += connection.recv(4096)
        assert b"X-Request-Id: left\r\n" in answer
    line = finished(log, "left")
    assert (line["end"], line["model"]) == ("disconnect", "echo:latest")


def test_errors_carry_the_id(scripted: RunningServer, log: list[dict[str, Any]]) -> None:
    def ask(path: str, body: object, ident: str) -> httpx.Response:
        return httpx.post(scripted.url + path, json=body, headers={"X-Request-Id": ident}, timeout=10)

    assert ask("/api/generate", {"model": "nothing"}, "e1").headers["X-Request-Id"] == "e1"
    line = finished(log, "e1")
    assert (line["status"], line["end"], line["error"]) == (404, "error", "model 'nothing' not found")
    # A failure inside a stream: the status was out already.
    assert "the device failed" in ask("/api/generate", {"model": "echo", "prompt": "fail"}, "e2").text
    line = finished(log, "e2")
    assert (line["status"], line["end"], line["error"]) == (200, "error", "the device failed")
    told = [line for line in log if line["level"] == "ERROR"]
    assert [(line["id"], line["msg"]) for line in told] == [("e2", "the engine failed: the device failed")]
    answer = ask("/v1/messages", {"model": "echo"}, "e3")
    assert answer.json()["request_id"] == answer.headers["request-id"] == "e3"
    assert ask("/nowhere", {}, "e4").headers["X-Request-Id"] == "e4"
    assert finished(log, "e4")["status"] == 404


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", "a\tb", 'a"b'])
def test_an_id_that_is_not_well_formed_is_replaced(scripted: RunningServer, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    ids = [httpx.get(scripted.url, headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", ident) for ident in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("debug", "level"),
    [
        ("", logging.INFO),
        ("0", logging.INFO),
        ("false", logging.INFO),
        ("nonsense", logging.INFO),
        ("1", logging.DEBUG),
        ("true", logging.DEBUG),
        ("2", TRACE),
        ("9", TRACE),
        ("-1", logging.WARNING),
        ("-2", logging.ERROR),
        ("-3", logging.ERROR),
    ],
)
def test_levels_are_those_of_ollama(debug: str, level: int) -> None:
    assert log_level(debug) == level
    assert Settings.from_environment({"OLLAMA_DEBUG": debug}).log_level == level


def test_lines_are_logfmt_or_json() -> None:
    fields = {"path": '/a b"\n', "status": 200, "bad": "\ud800", "empty": ""}
    record = logging.LogRecord("ollamapy", logging.INFO, "", 0, "two words", (), None)
    record.created = 1.5
    record.fields = fields
    assert LogfmtFormatter().format(record) == (
        'time=1970-01-01T00:00:01.500Z level=INFO msg="two words" path="/a b\\"\\n" status=200 bad="?" empty=""'
    )
    value = json.loads(JSONFormatter().format(record))
    assert list(value) == ["time", "level", "msg", "path", "status", "bad", "empty"]
    assert (value["path"], value["status"], value["bad"]) == ('/a b"\n', 200, "?")


def test_configuring_again_replaces_the_handler() -> None:
    root, ours = logging.getLogger(), logging.getLogger("ollamapy")
    handlers, level, own = root.handlers[:], root.level, ours.level
    root.handlers = []
    try:
        first, second = io.StringIO(), io.StringIO()
        configure(logging.INFO, "logfmt", first)
        configure(logging.WARNING, "json", second)
        ours.info("not said")
        ours.warning("said")
        logging.getLogger("another.package").info("not ours")
        assert first.getvalue() == ""
        assert json.loads(second.getvalue())["level"] == "WARN"
    finally:
        root.handlers = handlers
        root.setLevel(level)
        ours.setLevel(own)
