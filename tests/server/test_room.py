"""Real models that come and go on a running server: room for one, deleted, overwritten."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

import ollamapy.engine.engine
from ollamapy.engine.engine import Engine
from tests.server.harness import RunningServer, add_gguf
from tests.server.test_native import wait_until

MIB = 1 << 20
TINY = Path(__file__).parents[1] / "golden" / "models" / "tiny-gemma3.gguf"
SECONDS = 60.0


class Alone(Engine):
    """Finds that its models are never two, and counts them."""

    loads = 0

    async def load(self, *arguments: Any) -> Any:
        assert not self._models
        self.loads += 1
        return await super().load(*arguments)


@pytest.mark.parametrize("limit", ["count", "memory"])
def test_two_models_with_room_for_one_alternate(
    limit: str, tmp_path: Path, smollm2_path: Path, gemma3_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request fails, none says anything else than alone."""
    engine = Alone()
    if limit == "memory":  # enough for either and not for both
        monkeypatch.setattr(
            ollamapy.engine.engine,
            "available_memory",
            lambda: 340 * MIB - sum(model.nbytes for model in engine._models),
        )
    server = RunningServer(tmp_path, engine, max_loaded_models=1 if limit == "count" else 3)
    add_gguf(server.store, smollm2_path, "smollm2")
    add_gguf(server.store, gemma3_path, "gemma3")
    options = {"temperature": 0, "num_predict": 6, "num_ctx": 512}

    async def ask(client: ollama.AsyncClient, model: str, prompt: str) -> str:
        parts = await client.generate(model, prompt, raw=True, options=options, stream=True)
        return "".join([part.response async for part in parts])

    async def scenario() -> None:
        client = ollama.AsyncClient(server.url, timeout=SECONDS)
        prompts = ["The sky is", "Water is"]
        want = {
            (model, prompt): await ask(client, model, prompt)
            for model in ("smollm2", "gemma3")
            for prompt in prompts
        }
        assert engine.loads == 2

        async def user(number: int) -> None:
            for i, prompt in enumerate(prompts):
                model = ("smollm2", "gemma3")[(number + i) % 2]
                assert await ask(client, model, prompt) == want[model, prompt]
                assert len((await client.ps()).models) <= 1

        await asyncio.gather(*(user(number) for number in range(4)))
        assert engine.loads > 2

    asyncio.run(scenario())
    server.close()


def test_what_never_fits_is_refused_with_figures_and_nothing_goes(
    tmp_path: Path, smollm2_path: Path, gemma3_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    available = lambda: 200 * MIB - sum(model.nbytes for model in engine._models)  # noqa: E731
    monkeypatch.setattr(ollamapy.engine.engine, "available_memory", available)
    server = RunningServer(tmp_path, engine)
    add_gguf(server.store, smollm2_path, "smollm2")
    add_gguf(server.store, gemma3_path, "gemma3")
    client = ollama.Client(server.url, timeout=SECONDS)
    client.generate("smollm2", "Hi", options={"num_predict": 1, "num_ctx": 512})
    with pytest.raises(ollama.ResponseError) as error:
        client.generate("gemma3", "Hi", options={"num_predict": 1})
    assert error.value.status_code == 500
    message = r"model 'gemma3:latest' requires more system memory \(3\d\d\.\d MiB\) than is available \(200\.0 MiB\)"
    assert re.fullmatch(message, error.value.error)
    assert [model.model for model in client.ps().models] == ["smollm2:latest"]
    server.close()


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Iterator[RunningServer]:
    """A server with the models `first` and `other`."""
    server = RunningServer(tmp_path_factory.mktemp("changing"), Engine(kv_memory=300 * MIB))
    add_gguf(server.store, smollm2_path, "first")
    add_gguf(server.store, TINY, "other")
    yield server
    server.close()


@contextmanager
def streaming(server: RunningServer, model: str) -> Iterator[Iterator[str]]:
    """An answer that goes on until the client leaves."""
    options = {"temperature": 0, "num_predict": 1_000_000, "num_ctx": 8192}
    body = {"model": model, "prompt": "Count to a million: 1, 2,", "raw": True, "options": options}
    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=SECONDS) as response:
        lines = response.iter_lines()
        assert "response" in json.loads(next(lines))
        yield lines


def running(server: RunningServer) -> dict[str, str]:
    """What /api/ps lists: digests by name."""
    models = httpx.get(f"{server.url}/api/ps").json()["models"]
    assert all(model["size"] > 0 and model["details"]["family"] for model in models)
    return {model["name"]: model["digest"] for model in models}


def digest(server: RunningServer, name: str) -> str:
    models = httpx.get(f"{server.url}/api/tags").json()["models"]
    return str(next(model["digest"] for model in models if model["name"] == name))


def test_a_deleted_model_answers_to_the_end_and_is_listed_until_then(changing: RunningServer) -> None:
    client = ollama.Client(changing.url, timeout=SECONDS)
    client.create("mine", from_="first", system="Mine.")
    was = digest(changing, "mine:latest")
    with streaming(changing, "mine") as lines:
        client.delete("first")  # mine has its weights
        client.delete("mine")
        assert running(changing) == {"mine:latest": was}
        for _ in range(20):
            assert "response" in json.loads(next(lines))
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.generate("mine", "a")
    wait_until(lambda: running(changing) == {}, SECONDS)


def test_an_overwritten_model_answers_to_the_end_beside_its_successor(
    changing: RunningServer, smollm2_path: Path
) -> None:
    client = ollama.Client(changing.url, timeout=SECONDS)
    add_gguf(changing.store, smollm2_path, "name")
    was = digest(changing, "name:latest")
    options = {"num_predict": 5, "seed": 1}
    with streaming(changing, "name") as lines:
        client.copy("other", "name")
        assert running(changing) == {"name:latest": was}
        want = client.generate("other", "a", raw=True, options=options).response
        assert client.generate("name", "a", raw=True, options=options).response == want
        listed = httpx.get(f"{changing.url}/api/ps").json()["models"]
        assert [model["name"] for model in listed] == ["name:latest"] * 2
        assert sorted(model["digest"] for model in listed) == sorted([was, digest(changing, "name:latest")])
        series = [line.rpartition(" ")[0] for line in httpx.get(f"{changing.url}/metrics").text.splitlines()]
        assert (
            len([line for line in series if 'model="name:latest' in line and 'state="running"' in line]) == 2
        )
        assert len(set(series)) == len(series)
        assert "response" in json.loads(next(lines))
    wait_until(lambda: running(changing) == {"name:latest": digest(changing, "name:latest")}, SECONDS)


def test_promises_are_taken_back_when_others_take_the_memory(
    tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was promised and never used does not drive the system out of memory; requests go on with what there is, and
    say the same."""
    engine = Engine()
    free = 2000 * MIB
    monkeypatch.setattr(ollamapy.engine.engine, "available_memory", lambda: free)
    server = RunningServer(tmp_path, engine)
    add_gguf(server.store, smollm2_path, "smollm2")
    client = ollama.Client(server.url, timeout=SECONDS)
    options = {"temperature": 0, "num_predict": 8, "num_ctx": 1024}
    want = client.generate("smollm2", "Why is the sky blue?", options=options).response
    [model] = engine._models
    assert abs(model.kv_promised - 1000 * MIB) < 100 * MIB
    free = 100 * MIB
    wait_until(lambda: model.kv_promised <= 50 * MIB, SECONDS)
    assert model.kv_bytes > 0  # what it has stays
    assert client.generate("smollm2", "Why is the sky blue?", options=options).response == want
    free = 0
    wait_until(lambda: model.kv_promised < 30 * MIB, SECONDS)
    assert (
        client.generate("smollm2", "x " * 700, options=options).eval_count > 0
    )  # one sequence has its pages
    free = 2000 * MIB
    monkeypatch.undo()
    server.close()
