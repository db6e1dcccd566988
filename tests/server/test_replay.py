"""Requests that were recorded against a real Ollama: status, headers, form of the answer, and the wording of errors.

golden/compact_replay.py made golden/replay.json of the recordings; the models are those of the `server` fixture.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.compact_replay import form
from tests.server.harness import RunningServer

CASES = json.loads((Path(__file__).resolve().parents[1] / "golden" / "replay.json").read_text("utf-8"))
GROUPS = list(dict.fromkeys(case["id"].split(".")[0] for case in CASES))

# Go's own words: any text with the same status is right.
GO = re.compile(
    r"json: cannot unmarshal|unexpected EOF|^EOF$|unexpected end of JSON|invalid character|dial tcp|^open /|strconv\."
    r"|^time: |^\{.error|is too short - |illegal base64|Value looks like object|Unsupported type|<nil>|float64"
)
CHANGING = re.compile(r"sha256:[0-9a-f]{64}|127\.0\.0\.1:\d+")


class Replay:
    """Sends cases to a server; variables hold what they refer to."""

    def __init__(self, server: RunningServer, gguf: Path) -> None:
        nonce = secrets.token_hex(8)

        def digest(text: str) -> str:
            return "sha256:" + hashlib.sha256(text.format(nonce).encode()).hexdigest()

        self.server = server
        self.variables = {
            "CHAT_MODEL": "smollm2:135m",
            "CHAT_MODEL_UPPER": "SMOLLM2:135M",
            "CHAT_MODEL2": "gemma3:270m",
            "EMBED_MODEL": "all-minilm",
            "HOST": server.host,
            "DEAD": "127.0.0.1:1",
            "NONCE": nonce,
            "MISMATCH_DIGEST": digest("mismatch {}"),
            "BLOB_DIGEST": digest("replay blob {}"),
            "BLOB_DIGEST_DASH": digest("replay blob {}").replace(":", "-"),
            "CHUNK_DIGEST_DASH": digest("chunked blob {}").replace(":", "-"),
            "CHUNK2_DIGEST": digest("chunked blob 2 {}"),
            "TEXT_DIGEST": digest("plain text {}"),
            "STUB_DIGEST": digest("GGUF{}"),
            "CHAT_GGUF": str(gguf),
            "GGUF_DIGEST": "sha256:" + hashlib.sha256(gguf.read_bytes()).hexdigest(),
        }

    def fill(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: self.variables[match[1]], text)

    def _body(self, case: dict[str, Any]) -> bytes | None:
        if "file" in case:
            return Path(self.variables[case["file"]]).read_bytes()
        if "raw" in case:
            return self.fill(case["raw"]).encode()
        return self.fill(json.dumps(case["body"])).encode() if "body" in case else None

    def send(self, case: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
        body = self._body(case)
        headers = {"Host": self.server.host, "Accept": "*/*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
            chunked = case.get("chunked", False)
            headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        headers |= {name: self.fill(value) for name, value in case.get("headers", {}).items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        try:
            connection.putrequest(case["method"], self.fill(case["path"]), skip_host=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body, encode_chunked=case.get("chunked", False))
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


def _words(text: str) -> str:
    return CHANGING.sub("X", text)


def differences(want: Any, got: Any, free: list[str], path: str = "") -> Iterator[str]:
    """What a body's form has that the recorded one has not, and the other way round."""
    if path.rsplit("/", 1)[-1] in free or path in free:
        return
    if isinstance(want, dict) and isinstance(got, dict):
        for key in sorted((want.keys() ^ got.keys()) - set(free)):
            yield f"{path}/{key} {'is missing' if key in want else 'is too much'}"
        for key in want.keys() & got.keys():
            yield from differences(want[key], got[key], free, f"{path}/{key}")
    elif isinstance(want, list) and isinstance(got, list):
        if bool(want) != bool(got):
            yield f"{path}: {want} expected, got {got}"
        for pair in zip(want, got, strict=False):
            yield from differences(*pair, free, f"{path}/0")
    elif want != got:
        yield f"{path}: {want!r} expected, got {got!r}"


def _tidy(name: str, value: str) -> Any:
    lists = ("allow", "access-control-allow-methods", "access-control-allow-headers")
    return sorted(value.lower().replace(" ", "").split(",")) if name in lists else value


def judge(case: dict[str, Any], response: http.client.HTTPResponse, data: bytes) -> Iterator[str]:
    """What is wrong with an answer."""
    want = case["answer"]
    kind = (response.getheader("Content-Type") or "").split(";")[0]
    if case.get("beyond") and response.status < 300:
        return
    if response.status != want["status"]:
        yield f"status {want['status']} expected, got {response.status}: {data[:200]!r}"
        return
    if kind != want["type"]:
        yield f"media type {want['type']!r} expected, got {kind!r}"
    for name, value in want.get("headers", {}).items():
        lines = response.headers.get_all(name) or [""]
        # one recorder kept the last of several lines, the other all of them
        if _tidy(name, value) not in (_tidy(name, lines[-1]), _tidy(name, ", ".join(lines))):
            yield f"header {name}: {value!r} expected, got {lines}"
    free = case.get("free", [])
    if "text" in want and data.decode() != want["text"]:
        yield f"text {want['text']!r} expected, got {data!r}"
    elif "events" in want:
        events = [json.loads(line) for line in data.splitlines()]
        for recorded, event in zip(want["events"], (events[0], events[-1]), strict=True):
            yield from differences(recorded, form(event), free)
    elif "body" in want:
        found = json.loads(data)
        recorded = want["body"]
        if "error" not in recorded:
            yield from differences(recorded, form(found), free)
        elif not found.get("error"):
            yield f"an error expected, got {found}"
        elif not case.get("free_text") and _reads_otherwise(recorded["error"], found["error"]):
            yield f"{recorded['error']!r} expected, got {found['error']!r}"


def _reads_otherwise(recorded: Any, found: str) -> bool:
    return isinstance(recorded, str) and not GO.search(recorded) and _words(found) != _words(recorded)


@pytest.fixture(scope="module")
def replay(server: RunningServer, smollm2_path: Path) -> Replay:
    return Replay(server, smollm2_path)


@pytest.mark.parametrize("group", GROUPS)
def test_recorded_requests(replay: Replay, group: str) -> None:
    wrong = []
    for case in CASES:
        if case["id"].split(".")[0] == group:
            response, data = replay.send(case)
            if "answer" in case:
                wrong += [f"{case['id']}: {text}" for text in judge(case, response, data)]
    assert not wrong, "\n".join(wrong)
