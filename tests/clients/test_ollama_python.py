"""The tool loop of ollama-python, in one answer and streamed, from a thread and from asyncio; and a real model."""

from __future__ import annotations

from typing import Any

import ollama
import pydantic
import pytest

from tests.clients.conftest import (
    ANSWER,
    ANSWER_TWO,
    CHAT,
    CODER,
    MODEL,
    QUESTION,
    QUESTION_TWO,
    RESULT,
    RESULT_TWO,
    THOUGHT,
    TOOLS,
    WORDS,
)
from tests.server.harness import RunningServer


def get_weather(place: str, unit: str) -> str:
    """Current weather of a place.

    Args:
      place: City and country
      unit: celsius or fahrenheit
    """
    assert unit == "celsius"
    return {"Zürich": RESULT, "Genève": RESULT_TWO}[place]


def result(call: ollama.Message.ToolCall) -> ollama.Message:
    assert call.function.name == "get_weather"
    text = get_weather(**call.function.arguments)
    return ollama.Message(role="tool", content=text, tool_name=call.function.name)


def joined(parts: list[ollama.ChatResponse]) -> ollama.Message:
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    return ollama.Message(
        role="assistant",
        content="".join(part.message.content or "" for part in parts),
        thinking="".join(part.message.thinking or "" for part in parts),
        tool_calls=calls or None,
    )


def test_loop(agent: RunningServer) -> None:
    client = ollama.Client(agent.url)
    messages = [ollama.Message(role="user", content=QUESTION)]
    asked = client.chat(MODEL, messages, tools=[get_weather], think=True)
    assert asked.message.thinking == THOUGHT
    assert asked.message.content == WORDS
    assert asked.message.tool_calls is not None
    (call,) = asked.message.tool_calls
    messages += [asked.message, result(call)]
    answered = client.chat(MODEL, messages, tools=[get_weather])
    assert answered.message.content == ANSWER
    assert not answered.message.tool_calls
    assert answered.done_reason == "stop"


def test_loop_streamed(agent: RunningServer) -> None:
    client = ollama.Client(agent.url)
    arguments: dict[str, Any] = {"tools": [get_weather], "stream": True}
    messages = [ollama.Message(role="user", content=QUESTION)]
    parts = list(client.chat(MODEL, messages, **arguments))
    assert len(parts) > 10
    asked = joined(parts)
    assert (asked.thinking, asked.content) == (THOUGHT, WORDS)
    assert asked.tool_calls is not None
    (call,) = asked.tool_calls
    messages += [asked, result(call)]
    assert joined(list(client.chat(MODEL, messages, **arguments))).content == ANSWER


@pytest.mark.parametrize("model", [MODEL, CODER])
async def test_two_calls_then_another_question(agent: RunningServer, model: str) -> None:
    client = ollama.AsyncClient(agent.url)
    messages = [ollama.Message(role="user", content=QUESTION_TWO)]
    for question in (QUESTION_TWO, QUESTION):
        if question is QUESTION:
            messages.append(ollama.Message(role="user", content=question))
        parts = [part async for part in await client.chat(model, messages, tools=[get_weather], stream=True)]
        asked = joined(parts)
        assert asked.tool_calls is not None
        places = [call.function.arguments["place"] for call in asked.tool_calls]
        assert places == (["Genève", "Zürich"] if question is QUESTION_TWO else ["Zürich"])
        messages += [asked, *map(result, asked.tool_calls)]
        answered = await client.chat(model, messages, tools=[get_weather])
        assert answered.message.content == (ANSWER_TWO if question is QUESTION_TWO else ANSWER)
        messages.append(answered.message)


def test_a_result_that_is_lost_is_noticed(agent: RunningServer) -> None:
    """The loop can fail: a wrong result is not answered as the right one."""
    client = ollama.Client(agent.url)
    messages = [ollama.Message(role="user", content=QUESTION)]
    asked = client.chat(MODEL, messages, tools=[get_weather])
    messages += [asked.message, ollama.Message(role="tool", content="?", tool_name="get_weather")]
    assert client.chat(MODEL, messages).message.content == "I do not know what came of my call."


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)


async def test_a_real_model(live: RunningServer) -> None:
    client = ollama.AsyncClient(live.url)
    options = {"temperature": 0, "num_predict": 100}
    ada = [ollama.Message(role="user", content="Ada is 36. Answer in JSON.")]
    schema = Person.model_json_schema()
    whole = await client.chat(CHAT, ada, format=schema, options=options)
    assert whole.done_reason == "stop" and Person.model_validate_json(whole.message.content or "")
    parts = [p async for p in await client.chat(CHAT, ada, format=schema, options=options, stream=True)]
    assert joined(parts).content == whole.message.content and len(parts) > 5
    generated = await client.generate(CHAT, "Ada is 36. Answer in JSON.", format="json", options=options)
    assert generated.done_reason == "length" or generated.response.startswith("{")
    offered = await client.chat(TOOLS, ada, tools=[get_weather], options=options)
    assert offered.done_reason in ("stop", "length")
    for model, tools, status in ((CHAT, [get_weather], 400), ("missing", None, 404)):
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat(model, ada, tools=tools)
        assert caught.value.status_code == status
