"""Hostile clients on real sockets: each gets a clear answer or none, soon, and the next request is served."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollamapy.server import app, bodies, streaming
from ollamapy.store.store import Store
from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer, add_gguf, tiny_gguf
from tests.server.test_native import wait_until
from tests.server.test_processes import Process

MODEL = Path(__file__).parents[1] / "golden" / "models" / "tiny-llama.gguf"
POST = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
ASK: dict[str, Any] = {"model": "tiny", "stream": False, "options": {"num_predict": 2}}
BODY = json.dumps({**ASK, "prompt": "hi"}).encode()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server as a process, whose memory can be looked at, with a small model on the real engine."""
    folder = tmp_path_factory.mktemp("hostile")
    add_gguf(Store(folder / "models"), MODEL, "tiny")
    process = Process(folder / "models", HOME=str(folder), OLLAMAPY_KV_MEMORY=str(64 << 20))
    log: list[str] = []
    assert process.process.stderr is not None
    reader = threading.Thread(target=lambda: log.extend(process.process.stderr or []), daemon=True)
    reader.start()
    yield process
    process.process.terminate()
    assert process.process.wait(20) == 0
    reader.join()
    text = "".join(log)
    assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:3000]
    assert len(text) < 100_000  # nobody fills our log with what he sends
    process.close()


def memory(process: Process, kind: str = "VmRSS") -> int:
    """MiB."""
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) >> 10
    raise AssertionError(kind)


def serves(process: Process) -> None:
    """The next request is served, and soon."""
    answer = httpx.post(process.url + "/api/generate", json={**ASK, "prompt": "hi"}, timeout=10)
    assert answer.status_code == 200 and answer.json()["done"]


def exchange(port: int, data: bytes, wait: float = 10.0) -> bytes:
    """What comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                got += block
        return got


CHUNKED = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
BROKEN = {
    "two lengths": (POST + b"Content-Length: 81\r\nContent-Length: 5\r\n\r\n" + BODY, 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\n" + BODY, 400),
    "a length in words": (POST + b"Content-Length: five\r\n\r\n" + BODY, 400),
    "an endless length": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY, 400),
    "a huge length": (POST + b"Content-Length: 99999999999\r\nConnection: close\r\n\r\n", 413),
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk that is longer": (CHUNKED + b"5\r\nabcdefghij\r\n0\r\n\r\n", 400),
    "a chunk of no size": (CHUNKED + b"zz\r\nabc\r\n", 400),
    "a chunk of negative size": (CHUNKED + b"-5\r\nabc\r\n", 400),
    "a chunk of endless size": (CHUNKED + b"ffffffffffffffffff\r\nabc\r\n", 400),
    "many small chunks": (CHUNKED + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n", 400),
    "a flood of trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", 400),
    "an unknown encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\nabc", 400),
    "what is no gzip": (POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", 400),
    "a flood of headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(100_000)) + b"\r\n", 400),
    "a huge header": (GET + b"X: " + b"a" * (5 << 20) + b"\r\n\r\n", 400),
    "a header without end": (GET + b"X: " + b"a" * (5 << 20), 400),
    "a huge path": (b"GET /" + b"a" * (5 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a huge method": (b"A" * (1 << 20), 400),
    "noise": (bytes(range(256)) * 100, 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500, 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a broken host": (b"GET / HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n", 403),
    "a broken origin": (GET + b"Origin: http://[\r\nConnection: close\r\n\r\n", 403),
    "a NUL in a header": (GET + b"X: a\x00b\r\n\r\n", 400),
    "a path out of the store": (
        b"HEAD /api/blobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400,
    ),
    "a model out of the store": (
        b"GET /v1/models/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400,
    ),
    "a path that is no UTF-8": (b"GET /v1/models/%ff%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_requests_that_are_none(process: Process, what: str) -> None:
    data, status = BROKEN[what]
    before = memory(process)
    start = time.monotonic()
    answer = exchange(process.port, data)
    # A flood that we stop reading may reset the connection before its client has read why.
    if answer or len(data) < 1 << 20:
        assert int(answer.split(b" ", 2)[1]) == status, answer[:300]
    assert time.monotonic() - start < 5
    assert memory(process) - before < 40
    serves(process)


def test_a_gzip_bomb(process: Process) -> None:
    data = gzip.compress(bytes(200 << 20), 9)
    head = b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
    assert b" 400 " in exchange(process.port, POST + head + data, 30)[:20]
    serves(process)


LARGE = "hello " * (50 * (1 << 20) // 6)
TURN = [{"role": "user", "content": LARGE}]
PROMPTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {**ASK, "prompt": LARGE, "raw": True}),
    ("/v1/messages", {"model": "tiny", "max_tokens": 2, "messages": TURN}),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": TURN}),
]


@pytest.mark.parametrize(("path", "body"), PROMPTS, ids=[path for path, _ in PROMPTS])
def test_a_prompt_of_50_megabytes(process: Process, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(process.url + path, content=json.dumps(body), timeout=120)
    assert answer.status_code == 200  # cut to the context, as a shorter one
    assert memory(process, "VmHWM") < 3000
    serves(process)


MANY = [{"role": "user", "content": "hi"}] * 1_000_000
FEWER = MANY[:100_000]
MILLIONS: list[tuple[str, dict[str, Any], str]] = [
    ("/api/chat", {**ASK, "messages": MANY}, "messages has 1000000 items, at most 65536"),
    ("/v1/chat/completions", {"model": "tiny", "messages": FEWER}, "messages has 100000 items"),
    ("/v1/messages", {"model": "tiny", "max_tokens": 2, "messages": FEWER}, "messages has 100000 items"),
    ("/v1/responses", {"model": "tiny", "input": FEWER}, "input has 100000 items"),
    ("/api/embed", {"model": "tiny", "input": ["a"] * 1_000_000}, "input has 1000000 items"),
    ("/api/chat", {**ASK, "messages": MANY[:1], "tools": FEWER}, "tools has 100000 items"),
    ("/api/generate", {**ASK, "prompt": "a", "options": {"stop": ["q"] * 60_000}}, "at most 1000 are taken"),
]


@pytest.mark.parametrize(
    ("path", "body", "words"), MILLIONS, ids=[f"{path} {words}" for path, _, words in MILLIONS]
)
def test_a_million_of_anything(process: Process, path: str, body: dict[str, Any], words: str) -> None:
    answer = httpx.post(process.url + path, content=json.dumps(body), timeout=60)
    assert answer.status_code == 400
    assert words in answer.text
    serves(process)


def test_as_many_blocks_as_are_taken(process: Process) -> None:
    """What a message is put together from is put together once, not anew for each piece."""
    blocks = [{"type": "text", "text": "a" * 500}] * 65_536
    body = {"model": "tiny", "messages": [{"role": "user", "content": blocks}]}
    start = time.monotonic()
    answer = httpx.post(process.url + "/v1/messages/count_tokens", content=json.dumps(body), timeout=60)
    assert answer.status_code == 200 and answer.json()["input_tokens"] > 0
    assert time.monotonic() - start < 30


def test_a_stop_sequence_of_a_book(process: Process) -> None:
    body = {**ASK, "prompt": "hi", "options": {"num_predict": 4, "stop": ["ab" * (10 << 20)]}}
    start = time.monotonic()
    assert httpx.post(process.url + "/api/generate", json=body, timeout=60).status_code == 200
    assert time.monotonic() - start < 10


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _laughs(kind: str) -> dict[str, Any]:
    """Ten to the twelfth copies of a schema, written in a kilobyte."""
    levels: dict[str, Any] = {f"l{i}": {kind: [{"$ref": f"#/$defs/l{i + 1}"}] * 10} for i in range(12)}
    return {"$defs": {**levels, "l12": {"type": "string"}}, "$ref": "#/$defs/l0"}


BOMBS: dict[str, dict[str, Any]] = {
    "deep": _nested(240),
    "itself": {"$ref": "#"},
    "all of": _laughs("allOf"),
    "any of": _laughs("anyOf"),
    "a regex": {"type": "string", "pattern": "(((((a{0,100}){0,100}){0,100}){0,100}){0,100})"},
    "another regex": {"type": "string", "pattern": "^(.*a){30}.{30}$"},
    "a long text": {"type": "string", "minLength": 10**9},
    "a long list": {"type": "array", "items": {"type": "string"}, "minItems": 10**8},
    "many values": {"enum": [f"v{i}" for i in range(60_000)]},
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(60_000)}},
}


@pytest.mark.parametrize("what", BOMBS)
def test_schema_bombs(process: Process, what: str) -> None:
    schema, turn = BOMBS[what], [{"role": "user", "content": "x"}]
    named = {"name": "a", "schema": schema}
    before = memory(process)
    turns = {"messages": turn, "max_tokens": 2}
    response_format = {"type": "json_schema", "json_schema": named}
    text_format = {"format": {"type": "json_schema", **named}}
    tool = {"tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "any"}}
    for path, body in (
        ("/api/chat", {**ASK, "messages": turn, "format": schema}),
        ("/v1/chat/completions", {**turns, "response_format": response_format}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 2, "text": text_format}),
        ("/v1/messages", {**turns, **tool}),
    ):
        start = time.monotonic()
        answer = httpx.post(process.url + path, json={"model": "tiny", **body}, timeout=60)
        assert answer.status_code in (200, 400), answer.text[:300]
        assert time.monotonic() - start < 20
    assert memory(process) - before < 300
    serves(process)


def test_half_sent_and_abandoned_connections(process: Process) -> None:
    """Hundreds of them stand around; nobody notices."""
    halves = (GET[:20], POST + b"Content-Length: 500\r\n\r\nabc", CHUNKED + b"5\r\nab")
    before = memory(process)
    with contextlib.ExitStack() as stack:
        for i in range(300):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", process.port)))
            connection.sendall(halves[i % 3])
            if i % 2:
                connection.shutdown(socket.SHUT_WR)
        serves(process)
    for _ in range(50):  # asked and gone
        with socket.create_connection(("127.0.0.1", process.port)) as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    serves(process)
    assert memory(process) - before < 60


def slow_reader(port: int, path: bytes, body: dict[str, Any]) -> socket.socket:
    """Asks for an endless answer and never reads it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    data = json.dumps(body).encode()
    connection.sendall(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(data)) + data
    )
    return connection


def ticks(process: Process) -> int:
    """Processor time so far, in hundredths of a second."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_slow_readers_are_not_computed_for(process: Process) -> None:
    before = memory(process)
    endless = {"num_predict": 1_000_000, "num_ctx": 1 << 17}
    native = {
        "model": "tiny",
        "prompt": "hi",
        "raw": True,
        "logprobs": True,
        "top_logprobs": 20,
        "options": endless,
    }
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1_000_000,
        "stream": True,
    }
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(slow_reader(process.port, b"/api/generate", native))
            stack.enter_context(slow_reader(process.port, b"/v1/chat/completions", chat))
        deadline = time.monotonic() + 60

        def rests() -> bool:
            used = ticks(process)
            time.sleep(0.5)
            return ticks(process) - used < 10

        while not rests():
            serves(process)  # others are answered meanwhile
            assert time.monotonic() < deadline, "a server computes what nobody reads"
        assert memory(process) - before < 200
        serves(process)
    wait_until(
        lambda: "ollamapy_requests_running 0" in httpx.get(process.url + "/metrics").text or rests(), 20
    )
    serves(process)


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server that waits for nobody."""
    monkeypatch.setattr(app, "_IDLE", 0.4)
    monkeypatch.setattr(bodies, "SILENCE", 0.4)
    monkeypatch.setattr(streaming, "STALLED", 0.4)
    server = RunningServer(tmp_path / "models", FakeEngine())
    add_gguf(server.store, tiny_gguf(tmp_path / "a", "echo"), "echo")
    yield server
    server.close()


def test_headers_that_drip_are_not_waited_for(hasty: RunningServer) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=10) as connection:
        with contextlib.suppress(OSError):
            for byte in GET + b"X: " + b"a" * 200:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("path", ["/api/generate", "/api/blobs/sha256:" + "0" * 64])
def test_a_body_that_never_comes(hasty: RunningServer, path: str) -> None:
    answer = exchange(
        hasty.port,
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 50\r\n\r\nabc"
        % path.encode(),
    )
    assert b" 408 " in answer[:20]
    assert b"the body did not come in time" in answer
    assert not list(hasty.store.blobs.folder.glob(".partial-*"))


def test_a_reader_that_stands_still_is_cut_off(hasty: RunningServer) -> None:
    with slow_reader(hasty.port, b"/api/generate", {"model": "echo", "prompt": "word " * 300_000}):
        wait_until(lambda: hasty.engine.running == 1, 10)
        wait_until(lambda: hasty.engine.running == 0, 30)
