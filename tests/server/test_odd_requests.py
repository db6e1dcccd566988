"""What nobody asks in earnest, as a real Ollama answers it; golden/record_odd.py asked it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server.harness import RunningServer
from tests.server.test_replay import Replay, judge

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from record_odd import shown  # noqa: E402

CASES = json.loads((GOLDEN / "odd.json").read_text("utf-8"))
GROUPS = list(dict.fromkeys(case["id"].split(".")[0] for case in CASES))
BETTER = {  # where a client would rather have our answer
    "bodies.embeddings 19": "the spelling of a name matters to Ollama here only",
}


@pytest.fixture(scope="module")
def replay(server: RunningServer, smollm2_path: Path) -> Replay:
    return Replay(server, smollm2_path)


def differences(case: dict[str, Any], replay: Replay) -> list[str]:
    response, data = replay.send(case)
    if "answer" in case:
        if case["answer"].get("headers"):  # they name the server as it is called now
            filled = {name: replay.fill(value) for name, value in case["answer"]["headers"].items()}
            case = {**case, "answer": {**case["answer"], "headers": filled}}
        return list(judge(case, response, data))
    found = json.loads(data)
    if "shown" in case:
        found = {"shown": shown(found)} if response.status == 200 else {"shown": found}
    wanted = {"shown": case["shown"]} if "shown" in case else case["holds"]
    return [
        f"{key}: {value!r} expected, got {found.get(key)!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_as_ollama(replay: Replay, group: str) -> None:
    wrong = []
    for case in CASES:
        if case["id"].split(".")[0] == group and case["id"] not in BETTER:
            wrong += [f"{case['id']}: {text}" for text in differences(case, replay)]
    assert not wrong, "\n".join(wrong)
