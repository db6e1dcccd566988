"""GET /metrics."""

from __future__ import annotations

import re

import httpx

from tests.server.harness import RunningServer


def values(server: RunningServer) -> dict[str, float]:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (re.split(r" (?=\S+$)", line) for line in lines)}


def test_what_happened_is_counted(server: RunningServer) -> None:
    before = values(server)
    body = {"model": "smollm2:135m", "prompt": "Count: one two three four five", "raw": True}
    for _ in range(2):
        options = {"num_predict": 4, "temperature": 0}
        answer = httpx.post(
            f"{server.url}/api/generate", json=body | {"stream": False, "options": options}, timeout=60
        )
        assert answer.status_code == 200
    after = values(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    prompt = answer.json()["prompt_eval_count"]
    assert grown('ollamapy_tokens_total{kind="prompt"}') == 2 * prompt
    assert grown('ollamapy_tokens_total{kind="cached"}') >= prompt - 1
    assert grown('ollamapy_tokens_total{kind="completion"}') == 8
    assert grown('ollamapy_requests_total{outcome="ended"}') == 2
    assert grown("ollamapy_step_seconds_count") == grown("ollamapy_step_rows_count") >= 8
    assert grown("ollamapy_time_to_first_token_seconds_count") == 2
    assert grown("ollamapy_inter_token_seconds_count") == 6
    assert after["ollamapy_models_resident"] >= 1
    label = 'model="smollm2:135m"'
    assert after[f'ollamapy_requests_current{{{label},state="running"}}'] == 0
    assert after[f'ollamapy_kv_pages{{group="0",{label},state="used"}}'] == 0
    assert after[f'ollamapy_kv_pages{{group="0",{label},state="cached"}}'] >= 1
