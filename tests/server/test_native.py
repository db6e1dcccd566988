"""The native API over a real socket, with an engine whose answers are known."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import httpx
import ollama
import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer


def post(server: RunningServer, path: str, body: object, **arguments: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(server.url + path, content=content, timeout=10, **arguments)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.strip().split("\n")]


def test_generate_streams(scripted: RunningServer) -> None:
    response = post(scripted, "/api/generate", {"model": "echo", "prompt": "a b"})
    assert response.headers["content-type"] == "application/x-ndjson"
    events = lines(response)
    assert [e["response"] for e in events] == ["a ", "b ", "end", ""]
    assert [e["done"] for e in events] == [False, False, False, True]
    assert events[-1]["done_reason"] == "stop"
    assert events[-1]["context"] == [ord(c) for c in "a ba b end"]
    assert events[-1]["prompt_eval_count"] == 3
    assert events[-1]["eval_count"] == 2
    assert events[-1]["total_duration"] >= events[-1]["load_duration"] > 0


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_line_ends_of_unicode(scripted: RunningServer, end: str) -> None:
    """ollama-python reads lines with httpx, for which these end one."""
    client = ollama.Client(scripted.url)
    parts = client.generate("echo", f"a{end}b", stream=True)
    assert "".join(part.response for part in parts) == f"a{end}b end"
    with httpx.stream(
        "POST",
        f"{scripted.url}/v1/chat/completions",
        json={"model": "echo", "messages": [{"role": "user", "content": f"a{end}b"}], "stream": True},
    ) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    texts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]
    assert any(f"a{end}b" in text for text in texts)


def test_generate_in_one_body(scripted: RunningServer) -> None:
    response = post(
        scripted, "/api/generate", {"model": "ECHO", "prompt": "a b", "stream": False, "raw": True}
    )
    assert response.headers["content-type"].startswith("application/json")
    value = response.json()
    assert value["response"] == "a b end"
    assert value["model"] == "ECHO"
    assert "context" not in value


def test_context_goes_before_the_prompt(scripted: RunningServer) -> None:
    body = {"model": "echo", "prompt": "b", "context": [97, 32], "stream": False}
    assert post(scripted, "/api/generate", body).json()["response"] == "a b end"


def test_an_empty_context_too_stands_for_the_history(scripted: RunningServer) -> None:
    template = "{{ range .Messages }}{{ .Content }} {{ end }}"
    made = {
        "model": "made",
        "from": "echo",
        "template": template,
        "messages": [{"role": "user", "content": "old"}],
    }
    assert post(scripted, "/api/create", made).status_code == 200
    body = {"model": "made", "prompt": "new", "_debug_render_only": True}
    for more, text in (({}, "old\n\nnew "), ({"context": None}, "old\n\nnew "), ({"context": []}, "new ")):
        value = post(scripted, "/api/generate", {**body, **more}).json()
        assert value["_debug_info"]["rendered_template"] == text


def test_chat(scripted: RunningServer) -> None:
    body = {"model": "echo", "messages": [{"role": "USER", "content": "hi"}], "stream": False}
    value = post(scripted, "/api/chat", body).json()
    assert value["message"]["role"] == "assistant"
    assert value["message"]["content"].startswith("<|im_start|>user hi<|im_end|> <|im_start|>assistant end")
    events = lines(post(scripted, "/api/chat", {**body, "stream": True}))
    assert all(isinstance(e["message"]["content"], str) for e in events)


def test_chat_drops_old_messages(scripted: RunningServer) -> None:
    messages = [{"role": "system", "content": "keep"}]
    messages += [{"role": "user", "content": f"{i} " + "x" * 60} for i in range(40)]
    body: dict[str, Any] = {
        "model": "echo",
        "messages": messages,
        "options": {"num_ctx": 300},
        "stream": False,
    }
    text = post(scripted, "/api/chat", body).json()["message"]["content"]
    assert "keep" in text
    assert "39 x" in text
    assert "36 x" not in text
    assert len(scripted.engine.requests[-1].prompt) <= 300
    response = post(scripted, "/api/chat", {**body, "truncate": False})
    assert response.status_code == 400


def test_options_reach_the_engine(scripted: RunningServer) -> None:
    options: dict[str, Any] = {"temperature": 0, "top_k": 7.9, "seed": 5, "stop": ["x"], "num_predict": 3}
    options |= {"num_ctx": 99999, "typo": [], "min_p": None, "num_gpu": 1}
    post(scripted, "/api/generate", {"model": "echo", "prompt": "a", "options": options, "logprobs": True})
    request = scripted.engine.requests[-1]
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.seed) == (0.0, 7, 5)
    assert (request.stop, request.num_predict, request.num_ctx, request.logprobs) == (("x",), 3, 8192, 0)
    post(scripted, "/api/generate", {"model": "echo", "prompt": "a"})
    request = scripted.engine.requests[-1]
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.seed) == (0.8, 40, None)
    assert (request.num_ctx, request.logprobs, request.num_keep) == (4096, -1, 4)


CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "stream": False}
GENERATE: dict[str, Any] = {"model": "echo", "prompt": "hi", "stream": False}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/chat", b"  ", 400, "missing request body"),
        ("/api/generate", b'{"model":', 400, "unexpected EOF"),
        ("/api/generate", b"[" * 100_000, 400, "exceeded max depth"),
        ("/api/generate", b'{"model": NaN}', 400, "invalid"),
        ("/api/generate", b'{"model": 1e999}', 400, "invalid"),
        ("/api/generate", b'{"model": {"a": 1}}', 400, "invalid request"),
        ("/api/generate", b"null", 404, "model '' not found"),
        ("/api/generate", {**GENERATE, "prompt": 5}, 400, "prompt"),
        ("/api/generate", {**GENERATE, "stream": "true"}, 400, "stream"),
        ("/api/generate", {**GENERATE, "model": "Nope"}, 404, "model 'Nope' not found"),
        ("/api/generate", {**GENERATE, "model": "bad name!"}, 400, "invalid model name"),
        ("/api/generate", {**GENERATE, "model": "vectors"}, 400, '"vectors" does not support generate'),
        ("/api/generate", {**GENERATE, "options": {"temperature": "hot"}}, 500, "must be of type float32"),
        ("/api/generate", {**GENERATE, "options": {"top_k": True}}, 500, "must be of type integer"),
        ("/api/generate", {**GENERATE, "options": {"stop": "x"}}, 500, "must be of type array"),
        ("/api/generate", {**GENERATE, "keep_alive": True}, 400, "keep_alive"),
        ("/api/generate", {**GENERATE, "keep_alive": "30"}, 400, 'missing unit in duration "30"'),
        ("/api/generate", {**GENERATE, "keep_alive": "garbage"}, 400, 'invalid duration "garbage"'),
        ("/api/generate", {**GENERATE, "raw": True, "system": "x"}, 400, "raw mode does not support"),
        ("/api/generate", {**GENERATE, "think": True}, 400, '"echo" does not support thinking'),
        ("/api/generate", {**GENERATE, "think": "much"}, 400, "think"),
        ("/api/generate", {**GENERATE, "format": "yaml"}, 500, "invalid format"),
        ("/api/generate", {**GENERATE, "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ("/api/generate", {**GENERATE, "suffix": "x"}, 400, "library/echo:latest does not support insert"),
        ("/api/generate", {**GENERATE, "images": ["@@"]}, 400, "base64"),
        ("/api/generate", {**GENERATE, "context": [1 << 40]}, 500, "context"),
        ("/api/generate", {**GENERATE, "prompt": "refuse"}, 400, "the engine refuses"),
        ("/api/generate", {**GENERATE, "prompt": "refuse", "stream": True}, 400, "the engine refuses"),
        ("/api/generate", {**GENERATE, "prompt": "fail"}, 500, "the device failed"),
        ("/api/generate", {**GENERATE, "prompt": "x" * 5000, "shift": False}, 400, "context length"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/chat", {**CHAT, "messages": "hi"}, 400, "messages"),
        ("/api/chat", {**CHAT, "messages": [{"role": "user", "content": ["x"]}]}, 400, "content"),
        (
            "/api/chat",
            {**CHAT, "tools": [{}]},
            400,
            "registry.ollama.ai/library/echo:latest does not support tools",
        ),
        ("/api/chat", {**CHAT, "model": "vectors"}, 400, '"vectors" does not support chat'),
        ("/api/embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling'),
        ("/api/embed", {"input": "x"}, 404, "model '' not found"),
        ("/api/embed", {"model": "vectors", "input": {"a": 1}}, 400, "invalid input type"),
        ("/api/embed", {"model": "vectors", "input": [1]}, 400, "invalid input type"),
        ("/api/pull", {}, 400, "invalid model name"),
        ("/api/pull", {"model": "127.0.0.1:1/a/b", "stream": False}, 500, "pull model manifest: Get"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/push", {"model": "127.0.0.1:1/a/b", "stream": False}, 500, "not found"),
        ("/api/push", {"model": "pip/a/b"}, 400, "model packs are Python distributions"),
    ],
)
def test_refusals(scripted: RunningServer, path: str, body: object, status: int, error: str) -> None:
    response = post(scripted, path, body)
    assert response.status_code == status
    assert response.headers["content-type"].startswith("application/json")
    assert list(response.json()) == ["error"]
    assert error in response.json()["error"]


def test_lenient_bodies(scripted: RunningServer) -> None:
    body = (
        b'{"MODEL": "x", "Model": "echo", "prompt": "a\xff\\ud800", "stream": false, "Options": null, "y": 1}'
    )
    body += b" trailing"
    value = post(scripted, "/api/generate", body, headers={"Content-Type": "text/plain"}).json()
    assert value["response"] == "a�� end"
    big = {**GENERATE, "prompt": "a", "system": "x" * 100_000}
    assert post(scripted, "/api/generate", big).json()["response"] == "a end"
    null = {"model": "echo", "messages": [None, {"role": None, "content": "b"}], "stream": False}
    assert "b<|im_end|>" in post(scripted, "/api/chat", null).json()["message"]["content"]


def test_error_after_the_first_event(scripted: RunningServer) -> None:
    response = post(scripted, "/api/generate", {"model": "echo", "prompt": "fail"})
    assert response.status_code == 200
    events = lines(response)
    assert [e.get("response") for e in events] == ["one", " two", None]
    assert events[-1] == {"error": "the device failed"}
    with pytest.raises(ollama.ResponseError, match="the device failed"):
        list(ollama.Client(scripted.url).generate("echo", "fail", stream=True))


def test_load_and_unload(scripted: RunningServer) -> None:
    value = post(scripted, "/api/generate", {"model": "echo"}).json()
    assert value["done_reason"] == "load"
    assert value["response"] == ""
    assert "eval_count" not in value
    assert post(scripted, "/api/chat", {"model": "echo", "keep_alive": 0}).json()["done_reason"] == "unload"
    assert len(scripted.engine.unloads) == 1
    again = post(scripted, "/api/generate", {"model": "echo", "keep_alive": "0s"})
    assert again.json()["done_reason"] == "unload"


def test_embed(scripted: RunningServer) -> None:
    value = post(scripted, "/api/embed", {"model": "vectors", "input": ["abc", ""]}).json()
    assert len(value["embeddings"]) == 2
    assert sum(x * x for x in value["embeddings"][0]) == pytest.approx(1)
    assert value["prompt_eval_count"] == 3
    assert value["total_duration"] > 0
    one = post(scripted, "/api/embed", {"model": "vectors", "input": "abc", "dimensions": 2}).json()
    assert len(one["embeddings"][0]) == 2
    assert sum(x * x for x in one["embeddings"][0]) == pytest.approx(1)
    for nothing in ("", [], None):
        assert post(scripted, "/api/embed", {"model": "vectors", "input": nothing}).json()["embeddings"] == []
    for same in (0, -4, 99999):
        body = {"model": "vectors", "input": "abc", "dimensions": same}
        assert len(post(scripted, "/api/embed", body).json()["embeddings"][0]) == 4


def test_routes(scripted: RunningServer) -> None:
    assert httpx.get(scripted.url + "/").text == "Ollama is running"
    assert httpx.head(scripted.url + "/").status_code == 200
    assert httpx.head(scripted.url + "/api/tags").content == b""
    assert httpx.get(scripted.url + "/api/version").json()["version"]
    missing = httpx.get(scripted.url + "/nope")
    assert (missing.status_code, missing.text) == (404, "404 page not found")
    wrong = httpx.get(scripted.url + "/api/chat")
    assert (wrong.status_code, wrong.text, wrong.headers["allow"]) == (405, "405 method not allowed", "POST")
    assert httpx.head(scripted.url + "/api/chat").status_code == 405
    slash = httpx.get(scripted.url + "/api/version/")
    assert (slash.status_code, slash.headers["location"]) == (301, "/api/version")
    assert post(scripted, "/api/chat/", {}).status_code == 307


def test_tags(scripted: RunningServer) -> None:
    models = httpx.get(scripted.url + "/api/tags").json()["models"]
    found = {m["name"]: m for m in models}
    assert set(found) == {"echo:latest", "other:latest", "vectors:latest"}
    assert found["echo:latest"]["capabilities"] == ["completion"]
    assert found["vectors:latest"]["capabilities"] == ["embedding"]
    assert found["echo:latest"]["details"]["context_length"] == 8192
    assert {m.model for m in ollama.Client(scripted.url).list().models} == set(found)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("app://obsidian.md", 200),
        ("vscode-webview://abc", 200),
        ("http://localhost.evil.example.com", 403),
        ("http://evil.example.com", 403),
        ("null", 403),
    ],
)
def test_origins(scripted: RunningServer, origin: str, status: int) -> None:
    response = httpx.get(scripted.url + "/api/version", headers={"Origin": origin})
    assert response.status_code == status
    assert response.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
    stream = post(scripted, "/api/generate", {"model": "echo", "prompt": "a"}, headers={"Origin": origin})
    assert stream.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
    preflight = httpx.options(
        scripted.url + "/api/chat", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == (204 if status == 200 else 403)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("app.localhost:1", 200), ("10.1.2.3", 200), ("0.0.0.0:9", 200), ("[::1]:5", 200),
     ("8.8.8.8", 403), ("evil.example.com", 403)],
)  # fmt: skip
def test_hosts(scripted: RunningServer, host: str, status: int) -> None:
    assert httpx.get(scripted.url + "/api/version", headers={"Host": host}).status_code == status


def wait_until(condition: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_work(scripted: RunningServer, stream: bool) -> None:
    engine: FakeEngine = scripted.engine
    body = json.dumps({"model": "echo", "prompt": "slow", "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", scripted.port)) as connection:
        connection.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        wait_until(lambda: engine.running == 1)
    wait_until(lambda: engine.running == 0)
    assert scripted.service.residency.residents()[0].users == 0


def test_shutting_down_ends_streams(scripted: RunningServer) -> None:
    async def scenario() -> tuple[list[str], httpx.Response]:
        async with httpx.AsyncClient(base_url=scripted.url, timeout=10) as client:
            whole = asyncio.ensure_future(client.post("/api/generate", json={**GENERATE, "prompt": "slow"}))
            async with client.stream(
                "POST", "/api/generate", json={"model": "echo", "prompt": "slow"}
            ) as response:
                found = []
                async for line in response.aiter_lines():
                    found.append(line)
                    if len(found) == 3:
                        await asyncio.to_thread(scripted.call, shut_down)
            return found, await whole

    async def shut_down() -> None:
        scripted.service.shut_down()

    found, whole = asyncio.run(scenario())
    assert json.loads(found[-1]) == {"error": "the server is shutting down"}
    assert whole.status_code == 503
    assert post(scripted, "/api/generate", GENERATE).status_code == 503


def test_the_queue_has_an_end(scripted: RunningServer) -> None:
    object.__setattr__(scripted.settings, "max_queue", 0)
    object.__setattr__(scripted.settings, "num_parallel", 1)

    async def scenario() -> httpx.Response:
        async with (
            httpx.AsyncClient(base_url=scripted.url, timeout=10) as client,
            client.stream("POST", "/api/generate", json={"model": "echo", "prompt": "slow"}) as response,
        ):
            async for _ in response.aiter_lines():
                return await client.post("/api/generate", json=GENERATE)
        raise AssertionError("no line came")

    refused = asyncio.run(scenario())
    assert refused.status_code == 503
    assert "server busy" in refused.json()["error"]


def test_unreadable_model_file(scripted: RunningServer) -> None:
    models = httpx.get(scripted.url + "/api/tags").json()["models"]
    stored = next(m for m in scripted.store.list() if m.name.model == "echo")
    stored.model_path.write_bytes(b"GGUF but not really")
    response = post(scripted, "/api/generate", GENERATE)
    assert response.status_code == 500
    assert response.json()["error"]
    assert len(httpx.get(scripted.url + "/api/tags").json()["models"]) == len(models)
