"""Prompts and refusals that a real Ollama recorded (golden/templates/recorded.json): Go templates, what they see,
templates of families, Jinja in files, and which template wins.

Asked of a whole server with a scripted engine, so cutting to the window and `context` are not among them. Where
the recording has an error without text, its wording is Go's or llama.cpp's own. `beyond`: llama.cpp's Jinja
departs from Jinja2, and anything clear is right.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollamapy.prompt.well_known import well_known
from ollamapy.store.gguf_writer import gguf_chunks
from tests.server.fake_engine import FakeEngine
from tests.server.harness import RunningServer, add_gguf

RECORDED = json.loads(
    (Path(__file__).parents[1] / "golden" / "templates" / "recorded.json").read_text("utf-8")
)
FAR = (  # what keeps a template away from the well-known ones, written FAR in the recording
    "A comment that keeps this template far away from any well-known one. " * 3
).rstrip()
DATES = {"%Y-%m-%d": "DATE", "%d %b %Y": "DAY_MONTH_YEAR", "%B %d, %Y": "MONTH_DAY_YEAR"}


def header(template: str | None, name: str, add_bos: bool = False) -> bytes:
    """A GGUF of nothing but a header."""
    rows: list[Any] = [
        ("general.architecture", "string", "llama"),
        ("general.name", "string", name),
        ("llama.context_length", "u32", 8192),
        ("llama.embedding_length", "u32", 4),
        ("tokenizer.ggml.tokens", "strings", ["<unk>", "<s>", "</s>"]),
        ("tokenizer.ggml.bos_token_id", "u32", 1),
        ("tokenizer.ggml.eos_token_id", "u32", 2),
        ("tokenizer.ggml.add_bos_token", "bool", add_bos),
    ]
    if template is not None:
        rows.append(("tokenizer.chat_template", "string", template))
    return b"".join(gguf_chunks(rows, []))


def with_today(text: str) -> str:
    """Dates of today and yesterday as the recording writes them."""
    today = datetime.date.today()
    for form, word in DATES.items():
        for days in (0, -1):
            text = text.replace((today + datetime.timedelta(days)).strftime(form), f"<{word}{days or ''}>")
    return text


class Asker:
    """Creates the models of the recording, each once, and asks."""

    def __init__(self, server: RunningServer, client: httpx.Client) -> None:
        self._url = server.url
        self._client = client
        self._made: dict[str, Any] = {}

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body)
        return self._client.post(self._url + path, content=content, timeout=60)

    def model(self, spec: dict[str, Any]) -> tuple[str, Any]:
        """The name of a model, and how its creation failed."""
        key = json.dumps(spec, sort_keys=True)
        name = spec.get("name") or f"tmpl-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
        if key not in self._made:
            self._made[key] = self._create(name, spec)
        return name, self._made[key]

    def _create(self, name: str, spec: dict[str, Any]) -> Any:
        body = {k: v for k, v in spec.items() if k not in ("name", "gguf", "from_gguf")}
        body |= {"model": name, "stream": False}
        if "gguf" in spec:
            given = dict(spec["gguf"])
            template = given.pop("chat_template")
            data = header(template and template.replace("FAR", FAR), **given)
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            assert self.post(f"/api/blobs/{digest}", data).status_code in (200, 201)
            body["files"] = {"model.gguf": digest}
        elif "from_gguf" in spec:
            body["from"], failure = self.model(spec["from_gguf"])
            assert failure is None
        else:
            body.setdefault("from", "smollm2:135m")
        response = self.post("/api/create", body)
        return None if response.json().get("status") == "success" else outcome(response)

    def ask(self, case: dict[str, Any]) -> dict[str, Any]:
        name, failure = self.model(RECORDED["models"][case["model"]])
        if failure is not None:
            return {"create": failure}
        found: dict[str, Any] = {}
        if "show" in case:
            shown = self.post("/api/show", {"model": name}).json()
            found["show"] = {field: tidy(field, shown.get(field)) for field in case["show"]}
        if "request" in case:
            path = "/api/chat" if "messages" in case["request"] else "/api/generate"
            body = {"model": name, "stream": False, "_debug_render_only": True, **case["request"]}
            found["render"] = outcome(self.post(path, body))
        return found


def tidy(field: str, value: Any) -> Any:
    """A field of show in the recording's form."""
    if field == "parameters" and isinstance(value, str):
        return sorted(value.splitlines())
    if field == "capabilities" and isinstance(value, list):
        return sorted(value)
    if field == "modelfile":
        value = re.sub(r"(?m)^(FROM|# FROM) .*$", r"\1 <model>", value)
    return value.replace(FAR, "FAR") if isinstance(value, str) else value


def outcome(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    found: dict[str, Any] = {"status": response.status_code}
    if "error" in body:
        found["error"] = unnamed(with_today(body["error"]))
    if "_debug_info" in body:
        found["prompt"] = with_today(body["_debug_info"]["rendered_template"])
        if body["_debug_info"].get("image_count"):
            found["images"] = body["_debug_info"]["image_count"]
    elif "error" not in body:
        transient = ("model", "created_at", "total_duration", "load_duration")
        found["body"] = {key: value for key, value in body.items() if key not in transient}
    return found


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    folder = tmp_path_factory.mktemp("recorded")
    server = RunningServer(folder / "models", FakeEngine())
    path = folder / "base.gguf"
    path.write_bytes(header(well_known()[1].jinja[0], "base"))
    add_gguf(server.store, path, "smollm2:135m")
    with httpx.Client() as client:
        yield Asker(server, client)
    server.close()


def unnamed(text: str) -> str:
    """A message without the name that the recording gave to a model."""
    return re.sub(r"tmpl-[0-9a-f]{10}", "tmpl", text)


def agrees(wanted: dict[str, Any], got: dict[str, Any]) -> bool:
    """Whether an outcome is the recorded one; an error without text agrees with any."""
    if "show" in wanted and wanted["show"] != got.get("show"):
        return False
    for part in ("create", "render"):
        want, have = wanted.get(part), dict(got.get(part) or {})
        if (want is None) != (part not in got):
            return False
        if want is not None and want["status"] != 200 and "error" not in want:
            have.pop("error", None)
        if want is not None and "error" in want:
            want = {**want, "error": unnamed(want["error"])}
        if want is not None and want != have:
            return False
    return True


@pytest.mark.parametrize("group", ["lang", "ollama", "families", "jinja", "choice"])
def test_as_recorded(asker: Asker, group: str) -> None:
    wrong = []
    for case in RECORDED["cases"]:
        if case["id"].split(".")[0] != group:
            continue
        got = asker.ask(case)
        if case.get("beyond"):
            part = got.get("render") or got.get("create") or {}
            right = bool(part.get("prompt") if part["status"] == 200 else part.get("error"))
        else:
            right = agrees(case["result"], got)
        if not right:
            wrong.append((case["id"], case["result"], got))
    assert not wrong
