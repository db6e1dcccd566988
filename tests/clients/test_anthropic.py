"""The tool loop of the anthropic package, in one answer and streamed."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.clients.conftest import (
    ANSWER,
    ANSWER_TWO,
    MODEL,
    QUESTION,
    QUESTION_TWO,
    RESULT,
    RESULT_TWO,
    THOUGHT,
)
from tests.clients.test_openai import SCHEMA
from tests.server.harness import RunningServer

TOOLS: list[Any] = [{"name": "get_weather", "description": "Weather of a place", "input_schema": SCHEMA}]
RESULTS = {"Zürich": RESULT, "Genève": RESULT_TWO}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("question", "places", "answer"),
    [(QUESTION, ["Zürich"], ANSWER), (QUESTION_TWO, ["Genève", "Zürich"], ANSWER_TWO)],
    ids=["one", "two"],
)
def test_messages(agent: RunningServer, question: str, places: list[str], answer: str, stream: bool) -> None:
    client = anthropic.Anthropic(base_url=agent.url, api_key="unused", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": question}]
    arguments: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 500,
        "messages": messages,
        "tools": TOOLS,
    }

    def complete() -> anthropic.types.Message:
        if not stream:
            return client.messages.create(**arguments)
        with client.messages.stream(**arguments) as events:
            return events.get_final_message()

    asked = complete()
    assert asked.stop_reason == "tool_use"
    calls = [block for block in asked.content if block.type == "tool_use"]
    assert [call.input for call in calls] == [{"place": place, "unit": "celsius"} for place in places]
    messages.append({"role": "assistant", "content": asked.content})
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": RESULTS[call.input["place"]]}
        for call in calls
    ]
    messages.append({"role": "user", "content": results})
    answered = complete()
    assert answered.stop_reason == "end_turn"
    assert "".join(block.text for block in answered.content if block.type == "text") == answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_thinking(agent: RunningServer, stream: bool) -> None:
    client = anthropic.Anthropic(base_url=agent.url, api_key="unused", max_retries=0)
    arguments: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": QUESTION}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": TOOLS,
    }
    if stream:
        with client.messages.stream(**arguments) as events:
            kinds = [event.delta.type for event in events if event.type == "content_block_delta"]
            message = events.get_final_message()
        assert set(kinds) >= {"thinking_delta", "text_delta", "input_json_delta"}
    else:
        message = client.messages.create(**arguments)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].thinking == THOUGHT  # type: ignore[union-attr]


def test_a_call_that_is_cut(agent: RunningServer) -> None:
    client = anthropic.Anthropic(base_url=agent.url, api_key="unused", max_retries=0)
    message = client.messages.create(
        model=MODEL, max_tokens=8, messages=[{"role": "user", "content": QUESTION_TWO}], tools=TOOLS
    )
    assert message.stop_reason == "max_tokens"
    assert not [block for block in message.content if block.type == "tool_use"]
