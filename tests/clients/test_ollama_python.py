"""The tool loop of ollama-python."""

from __future__ import annotations

import ollama

from tests.clients.conftest import ANSWER, MODEL, QUESTION, RESULT, THOUGHT, WORDS
from tests.server.harness import RunningServer


def get_weather(place: str, unit: str = "celsius") -> str:
    """Current weather of a place.

    Args:
      place: City and country
      unit: celsius or fahrenheit
    """
    assert (place, unit) == ("Zürich", "celsius")
    return RESULT


def test_loop(agent: RunningServer) -> None:
    client = ollama.Client(agent.url)
    messages: list[ollama.Message] = [ollama.Message(role="user", content=QUESTION)]
    asked = client.chat(MODEL, messages, tools=[get_weather], think=True)
    assert (asked.message.thinking, asked.message.content) == (THOUGHT, WORDS)
    assert asked.message.tool_calls is not None
    (call,) = asked.message.tool_calls
    messages.append(asked.message)
    result = get_weather(**call.function.arguments)
    messages.append(ollama.Message(role="tool", content=result, tool_name=call.function.name))
    answered = client.chat(MODEL, messages, tools=[get_weather])
    assert answered.message.content == ANSWER
    assert not answered.message.tool_calls
    assert answered.done_reason == "stop"
