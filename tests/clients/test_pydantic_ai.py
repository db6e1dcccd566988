"""Pydantic AI runs the tool loop by itself, over chat completions."""

from __future__ import annotations

from collections.abc import AsyncIterable

import pytest
from pydantic_ai import Agent, AgentStreamEvent, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.ollama import OllamaProvider

from tests.clients.conftest import ANSWER, ANSWER_TWO, MODEL, QUESTION, QUESTION_TWO, RESULT, RESULT_TWO
from tests.server.harness import RunningServer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("question", "places", "answer"),
    [(QUESTION, ["Zürich"], ANSWER), (QUESTION_TWO, ["Genève", "Zürich"], ANSWER_TWO)],
    ids=["one", "two"],
)
async def test_loop(
    agent: RunningServer, question: str, places: list[str], answer: str, stream: bool
) -> None:
    asked: list[str] = []
    provider = OllamaProvider(base_url=f"{agent.url}/v1")
    runner: Agent[None, str] = Agent(OpenAIChatModel(MODEL, provider=provider))

    @runner.tool_plain
    def get_weather(place: str, unit: str) -> str:
        """Current weather of a place."""
        assert unit == "celsius"
        asked.append(place)
        return {"Zürich": RESULT, "Genève": RESULT_TWO}[place]

    events: list[AgentStreamEvent] = []

    async def collect(context: RunContext[None], stream: AsyncIterable[AgentStreamEvent]) -> None:
        events.extend([event async for event in stream])

    run = await runner.run(question, event_stream_handler=collect if stream else None)
    assert run.output == answer
    assert (len(events) > 10) == stream
    assert sorted(asked) == places  # calls of one turn run side by side
