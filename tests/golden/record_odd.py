"""Ask a running Ollama what nobody asks in earnest, and keep its answers in odd.json, in the form of replay.json.

    python record_odd.py http://127.0.0.1:11434

It has `smollm2:135m`, `gemma3:270m` and `all-minilm` as the tests have them, and nothing else. The models `odd-*` are
created and deleted. Of a created model odd.json holds what `show` says of it, to the letter.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))
from compact_replay import answer

HEADERS = (
    "location",
    "allow",
    "vary",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
)
PATHS = (
    "/api/tags/",
    "/api/show/",
    "/api/blobs/sha256:abc/",
    "/nope/",
    "//api/version",
    "/nope//x/?a=1",
    "/api/../api/tags",
    "/api/push",
    "/api/show",
    "/api/blobs/x",
    "/nope",
    "/v1/models/",
)
ORIGINS = (
    "",
    "HTTP://LOCALHOST",
    "http://localhost",
    "http://${HOST}",
    "https://${HOST}",
    "app://x",
    "http://sub.localhost:3",
    "http://localhost:3000/path",
    "null",
    "http://example.com",
)
HOSTS = (
    "",
    "localhost",
    "LOCALHOST:1",
    "foo.local",
    "127.0.0.1",
    "[::1]",
    "[::1]:1",
    "::1",
    "[::]:1",
    "169.254.1.1",
    "[fe80::1]:1",
    "[2001:db8::1]:1",
    "[fd00::1]:3",
    "172.16.0.1",
    "100.64.0.1",
    "8.8.8.8",
    "example.com",
    "local",
    "localhost.",
)
BODIES = (
    '{"think":"x"}',
    '{"think":1}',
    '{"think":""}',
    '{"top_logprobs":21}',
    '{"top_logprobs":-1}',
    '{"context":[null]}',
    '{"images":["!!"]}',
    '{"keep_alive":"5 s"}',
    '{"keep_alive":"5"}',
    '{"keep_alive":"1d"}',
    '{"keep_alive":""}',
    '{"keep_alive":"9999999h"}',
    '{"keep_alive":true}',
    '{"input":1}',
    '{"messages":[null]}',
    '{"options":null}',
    '{"messages":[{"images":["!"]}]}',
    '{"model":"a@b"}',
    '{"model":"x y"}',
    '{"model":" x "}',
    '{"model":"http://x"}',
    '{"model":"http://h/n/x"}',
    '{"model":"a/b/c/d"}',
    '{"model":"a\\"b"}',
    '{"model":"x:local"}',
)
ENDPOINTS = (
    "generate",
    "chat",
    "embed",
    "embeddings",
    "show",
    "copy",
    "delete",
)
LOADS = (
    {"think": True},
    {"raw": True, "system": "x"},
    {"options": {"temperature": "x"}},
    {"format": "zzz"},
    {"suffix": "x"},
    {"template": "{{"},
    {"_debug_render_only": True},
)
TEXTS = (
    "two\nlines",
    '"quoted"',
    'a"b',
    'ends "',
    " starts",
    '"""',
    'a """ b\nc',
    "trail ",
    "\n",
    "tab\tx",
    "a\r\nb",
    "\\",
    "#c",
    "  ",
)
PARAMETERS = (
    {"temperature": 0.5},
    {"temperature": None},
    {"stop": []},
    {"stop": 'a"b'},
    {"stop": ['a"b', "c\nd", " e ", ""]},
    {"seed": -1},
    {"top_p": 1e-7},
    {"nope": "x y"},
    {"x": ""},
    {"nope": 100000},
    {"use_mmap": True},
)
MESSAGES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": 'a\nb "c"'}, {"role": "assistant", "content": "d"}],
    [{"role": "User", "content": " lead"}],
    [{"content": "s"}],
    [{"role": "user"}],
    [],
)
OPTIONS = (
    *((name, value) for name in ("temperature", "top_p", "repeat_penalty") for value in ("1", True, [], {})),
    *((name, value) for name in ("num_ctx", "seed", "top_k", "num_keep") for value in ("", False, [1], {})),
    *(("stop", value) for value in ("a", 1, [1], {}, [None])),
)
WINDOWS = (
    *(
        {"options": {"num_ctx": num_ctx}, **more}
        for num_ctx in (0, -1, 1, 2)
        for more in ({}, {"truncate": False})
    ),
    {"options": {"num_ctx": 3}, "truncate": False},
)
FORMATS: tuple[Any, ...] = ("JSON", "json ", 0, True, [], ["json"], {"type": "nope"})
CREATED: tuple[dict[str, Any], ...] = (
    *({"system": text} for text in TEXTS),
    *({"template": text} for text in (*TEXTS, "{{ .Suffix }}", "{{ .Tools }}")),
    *({"license": text} for text in (*TEXTS[:6], ["a", 'b "x"'], [""], [])),
    *({"parameters": value} for value in PARAMETERS),
    *({"messages": value} for value in MESSAGES),
    {"info": {"capabilities": ["x"]}},
    {"info": {"capabilities": ["completion", "tools"]}},
    {"info": {"model_family": "fam"}},
    {"renderer": "qwen3"},
    {"parser": "qwen3"},
)


def cases() -> Iterator[dict[str, Any]]:
    """Every request, in order."""

    def case(group: str, name: object, method: str, path: str, **more: Any) -> dict[str, Any]:
        return {"id": f"{group}.{name}", "method": method, "path": path, **more}

    for path in PATHS:
        for method in ("GET", "HEAD", "POST", "DELETE"):
            yield case("paths", f"{method} {path}", method, path)
    for origin in ORIGINS:
        for method, path in (
            ("GET", "/api/version"),
            ("OPTIONS", "/api/chat"),
            ("GET", "/nope"),
            ("OPTIONS", "/nope"),
        ):
            yield case("origins", f"{method} {path} {origin}", method, path, headers={"Origin": origin})
    for host in HOSTS:
        yield case("hosts", f"get {host}", "GET", "/api/version", headers={"Host": host})
        yield case("hosts", f"options {host}", "OPTIONS", "/api/tags", headers={"Host": host})
        headers = {"Host": host, "Origin": "http://localhost"}
        yield case("hosts", f"preflight {host}", "OPTIONS", "/api/tags", headers=headers)
    for endpoint in ENDPOINTS:
        for i, body in enumerate(BODIES):
            method = "DELETE" if endpoint == "delete" else "POST"
            yield case("bodies", f"{endpoint} {i}", method, f"/api/{endpoint}", raw=body)
    yield case("bodies", "blob", "HEAD", f"/api/blobs/sha256:{'0' * 64}")
    for source, target in (
        ("a b", "x"),
        ('a"b', "x"),
        ("a\nb", "x"),
        ("nope", "a\\b"),
        ("nope", "x@y"),
        ('no"', "y"),
    ):
        body = {"source": source, "destination": target}
        yield case("copy", f"{source} {target}", "POST", "/api/copy", body=body)
    for endpoint, nothing in (("generate", {"prompt": ""}), ("chat", {"messages": []})):
        for i, more in enumerate(LOADS):
            for keep_alive in (0, "5m"):
                body = {"model": "smollm2:135m", **nothing, **more, "keep_alive": keep_alive}
                yield case("loads", f"{endpoint} {i} {keep_alive}", "POST", f"/api/{endpoint}", body=body)
    for i, (name, value) in enumerate(OPTIONS):
        body = {"model": "smollm2:135m", "prompt": "x", "stream": False, "options": {name: value}}
        yield case("options", f"{i} {name}", "POST", "/api/generate", body=body)
    for endpoint, key in (("embed", "input"), ("embeddings", "prompt")):
        for i, more in enumerate(WINDOWS):
            body = {"model": "all-minilm", key: "why is the sky blue?", **more}
            yield case("windows", f"{endpoint} {i}", "POST", f"/api/{endpoint}", body=body)
    for i, value in enumerate(FORMATS):
        body = {"model": "smollm2:135m", "prompt": "x", "format": value, "_debug_render_only": True}
        yield case("formats", i, "POST", "/api/generate", body=body, exact="_debug_info")
    foreign = {"model": "smollm2:135m", "prompt": "x", "context": [999999], "_debug_render_only": True}
    yield case("loads", "foreign context", "POST", "/api/generate", body=foreign, free_text=True)
    developer = {
        "model": "gemma3:270m",
        "messages": [{"role": "developer", "content": "x"}],
        "_debug_render_only": True,
    }
    yield case("loads", "developer", "POST", "/api/chat", body=developer, exact="_debug_info")
    for i, more in enumerate(CREATED):
        yield case(
            "create",
            i,
            "POST",
            "/api/create",
            body={"model": f"odd-{i}", "from": "smollm2:135m", "stream": False, **more},
        )
        yield case("create", f"{i} shown", "POST", "/api/show", body={"model": f"odd-{i}"}, shown=True)
        yield case("create", f"{i} deleted", "DELETE", "/api/delete", body={"model": f"odd-{i}"})


def shown(value: dict[str, Any]) -> dict[str, Any]:
    """What show says of a created model, without the machine's paths; parameters have no order."""
    lines = re.sub(r"\nFROM /.*\n", "\nFROM X\n", value["modelfile"]).split("\n")
    texts = {
        "modelfile": "\n".join(line for line in lines if not line.startswith("PARAMETER ")),
        "parameters": sorted(value.get("parameters", "").split("\n")),
        "options": sorted(line for line in lines if line.startswith("PARAMETER ")),
    }
    same = ("license", "template", "system", "details", "messages", "capabilities")
    return {"keys": list(value), **texts, **{key: value[key] for key in same if key in value}}


def main() -> None:
    host = urlsplit(sys.argv[1]).netloc
    rows = []
    for case in cases():
        headers = {"Host": host} | case.get("headers", {})
        body = case["raw"] if "raw" in case else json.dumps(case["body"]) if "body" in case else None
        connection = http.client.HTTPConnection(host, timeout=300)
        connection.putrequest(case["method"], case["path"], skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value.replace("${HOST}", host))
        if body is not None:
            connection.putheader("Content-Length", str(len(body.encode())))
        connection.endheaders(body.encode() if body is not None else None)
        response = connection.getresponse()
        text = response.read().decode()
        kind = (response.getheader("Content-Type") or "").split(";")[0]
        found = {key: ", ".join(values) for key in HEADERS if (values := response.headers.get_all(key))}
        record = {
            "status": response.status,
            "content_type": kind,
            "headers": {key: value.replace(host, "${HOST}") for key, value in found.items()},
            "kind": "json" if kind == "application/json" and text else "text" if text else "none",
            "body": json.loads(text) if kind == "application/json" and text else text,
        }
        if case.pop("shown", False):
            case["shown"] = shown(record["body"])
        elif key := case.pop("exact", None):
            case["holds"] = {key: record["body"][key]}
        else:
            case["answer"] = answer(record)
        rows.append(case)
    text = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    (Path(__file__).parent / "odd.json").write_text(f"[\n{text}\n]\n", "utf-8")
    print(len(rows), "cases")


if __name__ == "__main__":
    main()
