"""JavaScript clients: tool loops of ollama-js and the Vercel AI SDK, OpenAI's and Anthropic's own packages.

They need Node with npm; without, they are skipped.
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
)
from tests.conftest import cache_folder
from tests.server.harness import RunningServer

SOURCES = Path(__file__).parent / "javascript"
LOOPS = [
    ["ollama-js.mjs"],
    ["vercel.mjs", "ollama", "whole"],
    ["vercel.mjs", "ollama", "stream"],
    ["vercel.mjs", "openai", "whole"],
    ["vercel.mjs", "openai", "stream"],
]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs in a folder with their packages, which are fetched once."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs Node with npm")
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"needs Node 20, this is {version.strip()}")
    wanted = (SOURCES / "package.json").read_bytes()
    packages = cache_folder() / f"javascript-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not packages.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            folder = Path(scratch) / "packages"
            folder.mkdir()
            (folder / "package.json").write_bytes(wanted)
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            folder.rename(packages)
    folder = tmp_path_factory.mktemp("javascript")
    for source in SOURCES.glob("*.mjs"):
        shutil.copy(source, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder


@pytest.mark.parametrize("question", [QUESTION, QUESTION_TWO], ids=["one", "two"])
@pytest.mark.parametrize("loop", LOOPS, ids="-".join)
def test_loop(agent: RunningServer, programs: Path, loop: list[str], question: str) -> None:
    environment = {
        "SERVER": agent.url,
        "MODEL": MODEL,
        "QUESTION": question,
        "RESULTS": json.dumps({"Zürich": RESULT, "Genève": RESULT_TWO}),
    }
    done = subprocess.run(
        ["node", *loop],
        cwd=programs,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    places, answer = (["Zürich"], ANSWER) if question == QUESTION else (["Genève", "Zürich"], ANSWER_TWO)
    assert json.loads(done.stdout) == {"places": places, "answer": answer}


def _found(live: RunningServer, programs: Path, program: str) -> dict[str, Any]:
    """What one of the programs that print what they found has found, and it warned of nothing."""
    environment = {
        "SERVER": live.url,
        "MODEL": CHAT,
        "EMBED": EMBED,
        "QUESTION": "What is the capital of France?",
    }
    done = subprocess.run(
        ["node", program],
        cwd=programs,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_openai_on_a_real_model(live: RunningServer, programs: Path) -> None:
    found = _found(live, programs, "openai.mjs")
    assert "Paris" in found["whole"] and found["streamed"] == found["response"] == found["whole"]
    assert found["shaped"].keys() == {"name", "age"} and found["shaped"]["age"] <= 150
    assert found["kinds"][:2] == ["response.created", "response.in_progress"]
    assert found["kinds"][-1] == "response.completed"
    assert abs(found["length"] - 1) < 1e-5
    assert found["error"] == ["NotFoundError", 404]


def test_anthropic_on_a_real_model(live: RunningServer, programs: Path) -> None:
    found = _found(live, programs, "anthropic.mjs")
    assert "Paris" in found["whole"] and found["streamed"] == found["whole"]
    assert (found["reason"], found["counted"]) == ("end_turn", True)
    assert found["error"] == ["NotFoundError", 404]
