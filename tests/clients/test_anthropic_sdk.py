"""Anthropic's own Python client, unmodified, against the server on real models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anthropic
import pydantic
import pytest
from anthropic import AsyncAnthropic

from tests.clients.conftest import CHAT, TOOLS

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "maximum": 9},
        },
        "required": ["city", "days"],
    },
}


@pytest.fixture
async def client(live: RunningServer) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=live.url, api_key="unused", max_retries=0) as made:
        yield made


async def test_a_message_and_the_same_as_a_stream(client: AsyncAnthropic) -> None:
    more: dict[str, Any] = {"model": CHAT, "max_tokens": 24, "extra_body": {"temperature": 0}}
    whole = await client.messages.create(messages=ASK, **more)
    (block,) = whole.content
    assert block.type == "text" and "Paris" in block.text and whole.stop_reason == "end_turn"
    counted = await client.messages.count_tokens(messages=ASK, model=CHAT)
    assert counted.input_tokens == whole.usage.input_tokens
    system: Any = [{"type": "text", "text": "You are helpful."}]
    longer = await client.messages.count_tokens(messages=ASK, system=system, model=CHAT)
    assert longer.input_tokens > counted.input_tokens
    async with client.messages.stream(messages=ASK, **more) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert text == block.text and final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_why_it_ended(client: AsyncAnthropic) -> None:
    more: dict[str, Any] = {"model": CHAT, "messages": ASK, "extra_body": {"temperature": 0}}
    cut = await client.messages.create(max_tokens=2, **more)
    assert cut.stop_reason == "max_tokens"
    stopped = await client.messages.create(max_tokens=24, stop_sequences=[" France", "never"], **more)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " France")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_a_call_and_its_result(client: AsyncAnthropic, choice: Any) -> None:
    more: dict[str, Any] = {"model": TOOLS, "tools": [WEATHER], "extra_body": {"temperature": 0}}
    single = {"disable_parallel_tool_use": True}
    asked = await client.messages.create(messages=ASK, max_tokens=100, tool_choice=choice | single, **more)
    assert asked.stop_reason == "tool_use"
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    assert call.name == "get_weather" and isinstance(call.input["days"], int) and call.input["days"] <= 9
    async with client.messages.stream(
        messages=ASK, max_tokens=100, tool_choice=choice | single, **more
    ) as stream:
        final = await stream.get_final_message()
    (streamed,) = [block for block in final.content if block.type == "tool_use"]
    assert streamed.input == call.input
    history: list[Any] = [
        *ASK,
        {"role": "assistant", "content": [block.model_dump() for block in asked.content]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}],
        },
    ]
    after = await client.messages.create(
        messages=history, max_tokens=16, tool_choice={"type": "none"}, **more
    )
    assert [block.type for block in after.content] == ["text"]


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)


async def test_a_schema_is_parsed(client: AsyncAnthropic) -> None:
    ada: list[Any] = [{"role": "user", "content": "Ada is 36. Answer in JSON."}]
    more: dict[str, Any] = {
        "model": CHAT,
        "messages": ada,
        "max_tokens": 100,
        "extra_body": {"temperature": 0},
    }
    parsed = await client.messages.parse(output_format=Person, **more)
    assert isinstance(parsed.parsed_output, Person) and parsed.stop_reason == "end_turn"
    async with client.messages.stream(output_format=Person, **more) as stream:
        final = await stream.get_final_message()
    assert final.parsed_output == parsed.parsed_output


async def test_thinking_is_dropped_where_a_model_cannot(client: AsyncAnthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    answer = await client.messages.create(model=CHAT, messages=ASK, max_tokens=2000, thinking=thinking)
    assert {block.type for block in answer.content} <= {"text"}


async def test_refusals_are_the_clients_exceptions(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not found"):
        await client.messages.create(model="missing", messages=ASK, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="does not support tools"):
        await client.messages.create(model=CHAT, messages=ASK, max_tokens=1, tools=[WEATHER])
    with pytest.raises(anthropic.BadRequestError, match="model is required"):
        await client.messages.create(model="", messages=ASK, max_tokens=1)
