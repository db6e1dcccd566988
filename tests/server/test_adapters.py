"""ADAPTER from the request to the answer: a LoRA that is stored is applied, one that cannot be is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server.harness import RunningServer, add_gguf
from tests.server.test_native import post

BASE = Path(__file__).resolve().parents[1] / "golden" / "models" / "tiny-llama.gguf"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[RunningServer]:
    from ollamapy.engine.engine import Engine

    server = RunningServer(tmp_path / "models", Engine)
    add_gguf(server.store, Path(shutil.copy(BASE, tmp_path / "base.gguf")), "tiny")
    yield server
    server.close()


def upload(server: RunningServer, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert httpx.post(f"{server.url}/api/blobs/{digest}", content=data).status_code in (200, 201)
    return digest


def test_adapter(tiny: RunningServer, tmp_path: Path) -> None:
    from tests.models.test_lora import random_pairs, write_adapter

    pairs = random_pairs(BASE, ["blk.0.attn_v.weight", "blk.1.ffn_down.weight"], 0.5)
    digest = upload(tiny, write_adapter(tmp_path / "adapter.gguf", pairs).read_bytes())
    body: dict[str, Any] = {"model": "tuned", "from": "tiny", "adapters": {"a.gguf": digest}, "stream": False}
    assert post(tiny, "/api/create", body).json() == {"status": "success"}
    shown = post(tiny, "/api/show", {"model": "tuned"}).json()
    assert f"ADAPTER {tiny.store.blobs.path(digest)}" in shown["modelfile"].splitlines()
    assert post(tiny, "/api/create", {**body, "model": "again", "from": "tuned"}).status_code == 400

    ask = {
        "prompt": "the light",
        "raw": True,
        "stream": False,
        "options": {"temperature": 0, "num_predict": 8},
    }
    ask |= {"logprobs": True, "top_logprobs": 3}
    answers = {name: post(tiny, "/api/generate", {**ask, "model": name}).json() for name in ("tiny", "tuned")}
    numbers = [np.array([step["logprob"] for step in answer["logprobs"]]) for answer in answers.values()]
    assert not np.allclose(numbers[0], numbers[1])
    assert (
        post(tiny, "/api/generate", {**ask, "model": "tiny"}).json()["logprobs"]
        == answers["tiny"]["logprobs"]
    )
    running = httpx.get(f"{tiny.url}/api/ps").json()["models"]
    assert {entry["name"] for entry in running} == {"tiny:latest", "tuned:latest"}
    post(tiny, "/api/create", {"model": "child", "from": "tuned", "system": "x", "stream": False})
    assert (
        post(tiny, "/api/generate", {**ask, "model": "child"}).json()["logprobs"]
        == answers["tuned"]["logprobs"]
    )


def test_refused_adapters(tiny: RunningServer, tmp_path: Path) -> None:
    from tests.models.test_lora import random_pairs, write_adapter

    pairs = random_pairs(BASE, ["blk.0.attn_v.weight"])
    other = upload(
        tiny, write_adapter(tmp_path / "a", pairs, **{"general.architecture": "gemma2"}).read_bytes()
    )
    good = upload(tiny, write_adapter(tmp_path / "a", pairs).read_bytes())
    model = upload(tiny, BASE.read_bytes())
    for adapters, message in (
        ({"a.gguf": other}, "the adapter is for architecture 'gemma2', the model is 'llama'"),
        ({"a.gguf": model}, "the file is no LoRA adapter"),
        ({"a.gguf": good, "b.gguf": good}, "only one adapter is currently supported"),
        (
            {"a.safetensors": good},
            "adapters in safetensors format are not supported: convert the adapter to GGUF",
        ),
    ):
        body = {"model": "m", "from": "tiny", "adapters": adapters, "stream": False}
        response = post(tiny, "/api/create", body)
        assert (response.status_code, response.json()["error"]) == (400, message)
    response = post(tiny, "/api/create", {"model": "m", "files": {"a.gguf": good}, "stream": False})
    assert (response.status_code, "it needs a model in FROM" in response.json()["error"]) == (400, True)
    assert [stored.name.model for stored in tiny.store.list()] == ["tiny"]
