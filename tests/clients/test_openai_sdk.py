"""OpenAI's own Python client, unmodified, against the server on real models."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import openai
import pydantic
import pytest
from openai import AsyncOpenAI

from tests.clients.conftest import CHAT, EMBED, TOOLS

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)
    tags: list[Annotated[str, pydantic.Field(max_length=12)]] = pydantic.Field(max_length=2)


@pytest.fixture
async def client(live: RunningServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


async def test_an_answer_and_the_same_as_a_stream(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model=CHAT, messages=ASK, temperature=0, max_tokens=24)
    text = whole.choices[0].message.content or ""
    assert "Paris" in text and whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.total_tokens == (
        whole.usage.prompt_tokens + whole.usage.completion_tokens
    )
    stream = await client.chat.completions.create(
        model=CHAT,
        messages=ASK,
        temperature=0,
        max_completion_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role] == ["assistant"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {c.created for c in chunks} == {chunks[0].created} and len({c.id for c in chunks}) == 1


async def test_the_stream_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model=CHAT, messages=ASK, temperature=0, max_tokens=24
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert "Paris" in (final.choices[0].message.content or "")


async def test_limits_and_stops_say_why_it_ended(client: AsyncOpenAI) -> None:
    cut = await client.chat.completions.create(
        model=CHAT, messages=ASK, temperature=0, max_completion_tokens=2
    )
    assert cut.choices[0].finish_reason == "length"
    stopped = await client.chat.completions.create(model=CHAT, messages=ASK, temperature=0, stop=["France"])
    assert stopped.choices[0].finish_reason == "stop"
    assert "France" not in (stopped.choices[0].message.content or "")


async def test_several_answers_to_one_prompt(client: AsyncOpenAI) -> None:
    async def ask(**more: Any) -> Any:
        return await client.chat.completions.create(
            model=CHAT, messages=ASK, temperature=1.5, seed=7, max_tokens=8, n=3, **more
        )

    whole = await ask()
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3, "each answer draws its own random numbers"
    assert whole.usage.completion_tokens <= 3 * 8
    parts = ["", "", ""]
    async for chunk in await ask(stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert parts == texts, "and the same seed draws the same"


async def test_a_prompt_that_was_computed_before_is_told(client: AsyncOpenAI) -> None:
    long: Any = [{"role": "user", "content": "The sea is wide and the sky is high. " * 20}]
    asked = [await client.chat.completions.create(model=CHAT, messages=long, max_tokens=1) for _ in range(2)]
    usages = [answer.usage for answer in asked]
    assert usages[0] is not None and usages[1] is not None
    details = usages[1].prompt_tokens_details
    assert details is not None and details.cached_tokens is not None
    assert usages[1].prompt_tokens - 64 <= details.cached_tokens < usages[1].prompt_tokens
    answer = await client.responses.create(model=CHAT, input=long, max_output_tokens=16)
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == details.cached_tokens


async def test_biases_forbid_and_logprobs_do_not_change(client: AsyncOpenAI) -> None:
    def first(answer: Any) -> Any:
        return answer.choices[0].logprobs.content[0]

    async def ask(**more: Any) -> Any:
        return await client.chat.completions.create(
            model=CHAT, messages=ASK, temperature=0, max_tokens=1, logprobs=True, top_logprobs=2, **more
        )

    best, second = first(await ask()).top_logprobs
    tokens = {"The": 504, "Paris": 34894}
    assert best.token in tokens
    other = first(await ask(logit_bias={str(tokens[best.token]): -100}))
    assert (other.token, other.logprob) == (second.token, pytest.approx(second.logprob))
    assert math.exp(best.logprob) + math.exp(second.logprob) <= 1


async def test_a_schema_is_parsed(client: AsyncOpenAI) -> None:
    ask: Any = [{"role": "user", "content": "Ada is 36. Answer in JSON."}]
    answer = await client.chat.completions.parse(
        model=CHAT, messages=ask, response_format=Person, temperature=0, max_tokens=120
    )
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person) and answer.choices[0].finish_reason == "stop"
    loose = await client.chat.completions.create(
        model=CHAT, messages=ask, response_format={"type": "json_object"}, temperature=0, max_tokens=60
    )
    if loose.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(loose.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
async def test_a_call_is_enforced(client: AsyncOpenAI, choice: Any, names: set[str]) -> None:
    async def ask(stream: bool) -> Any:
        return await client.chat.completions.create(
            model=TOOLS,
            messages=[{"role": "user", "content": "What is the weather in Paris?"}],
            tools=[WEATHER, CLOCK],
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=0,
            max_tokens=100,
            stream=stream,
        )

    whole = (await ask(False)).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    assert call.function.name in names
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert arguments["unit"] in ("celsius", "fahrenheit") and isinstance(arguments["city"], str)
    streamed = [c.choices[0] async for c in await ask(True) if c.choices]
    (part,) = [p for c in streamed for p in c.delta.tool_calls or []]
    assert part.function.arguments == call.function.arguments
    assert streamed[-1].finish_reason == "tool_calls"


async def test_no_call_is_enforced(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=TOOLS, messages=ASK, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=16
    )
    assert answer.choices[0].message.tool_calls is None


async def test_refusals_are_the_clients_exceptions(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not found"):
        await client.chat.completions.create(model="missing", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        await client.chat.completions.create(model=CHAT, messages=ASK, tools=[WEATHER])
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        await client.chat.completions.create(
            model=TOOLS,
            messages=ASK,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "other"}},
        )
    schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="#/properties/a/not"):
        await client.chat.completions.create(model=CHAT, messages=ASK, response_format=wanted)
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        await client.chat.completions.create(model=CHAT, messages=ASK, logprobs=True, top_logprobs=21)


async def test_completions(client: AsyncOpenAI) -> None:
    async def ask(prompt: Any, **more: Any) -> Any:
        return await client.completions.create(
            model=CHAT, prompt=prompt, temperature=0, **({"max_tokens": 6} | more)
        )

    one = await ask("Hello")
    listed = await ask(["Hello", "Why is the sky blue?"], n=2)
    assert [c.index for c in listed.choices] == [0, 1, 2, 3]
    assert listed.choices[0].text == listed.choices[1].text == one.choices[0].text
    echoed = await ask("Hello", echo=True)
    assert echoed.choices[0].text == "Hello" + one.choices[0].text
    tokens = await ask([19556, 905], echo=True)  # "Hello world", without a template
    assert tokens.choices[0].text.startswith("Hello world") and tokens.usage.prompt_tokens == 2
    scored = await ask("Hello", logprobs=2)
    logprobs = scored.choices[0].logprobs
    assert "".join(logprobs.tokens) == scored.choices[0].text
    assert [max(top.values()) for top in logprobs.top_logprobs] == pytest.approx(logprobs.token_logprobs)
    echoed = (await ask("Hello", logprobs=1, echo=True)).choices[0]
    for token, offset in zip(echoed.logprobs.tokens, echoed.logprobs.text_offset, strict=True):
        assert echoed.text[offset : offset + len(token)] == token
    pieces = [c async for c in await ask("Hello", logprobs=1, echo=True, stream=True)]
    offsets = [
        o for c in pieces for choice in c.choices if choice.logprobs for o in choice.logprobs.text_offset
    ]
    assert offsets == echoed.logprobs.text_offset
    best = await ask("Hello", n=1, best_of=3, seed=1)
    assert len(best.choices) == 1 and best.usage.completion_tokens > one.usage.completion_tokens
    text = ""
    async for chunk in await ask("Hello", stream=True):
        text += "".join(choice.text for choice in chunk.choices)
    assert text == one.choices[0].text


async def test_embeddings(client: AsyncOpenAI) -> None:
    packed = await client.embeddings.create(model=EMBED, input=["Hello", "Hello world"])
    plain = await client.embeddings.create(model=EMBED, input="Hello", encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-7)
    assert math.hypot(*plain.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert plain.usage.prompt_tokens == 3
    tokens = await client.embeddings.create(model=EMBED, input=[101, 7592, 102], encoding_format="float")
    assert tokens.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-7)
    short = await client.embeddings.create(model=EMBED, input="Hello", dimensions=64)
    assert len(short.data[0].embedding) == 64
    assert math.hypot(*short.data[0].embedding) == pytest.approx(1, abs=1e-5)


async def test_models(client: AsyncOpenAI) -> None:
    listed = [model async for model in await client.models.list()]
    assert CHAT in {model.id for model in listed}
    assert (await client.models.retrieve(CHAT)).id == CHAT
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("missing")


async def test_responses(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(
        model=CHAT, input="What is the capital of France?", temperature=0, max_output_tokens=24
    )
    assert "Paris" in whole.output_text and whole.status == "completed"
    async with client.responses.stream(
        model=CHAT, input="What is the capital of France?", temperature=0, max_output_tokens=24
    ) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == whole.output_text
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")]
    cut = await client.responses.create(model=CHAT, input="Tell me a story.", max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    parsed = await client.responses.parse(
        model=CHAT,
        input="Ada is 36. Answer in JSON.",
        text_format=Person,
        temperature=0,
        max_output_tokens=120,
    )
    assert isinstance(parsed.output_parsed, Person)


async def test_responses_call_tools_and_take_their_results(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    asked: Any = [{"role": "user", "content": "Weather in Paris?"}]
    answer = await client.responses.create(
        model=TOOLS,
        input=asked,
        tools=[tool],
        tool_choice={"type": "function", "name": "get_weather"},
        temperature=0,
        max_output_tokens=100,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert json.loads(call.arguments)["unit"] in ("celsius", "fahrenheit")
    history = [
        *asked,
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"},
    ]
    after = await client.responses.create(
        model=TOOLS, input=history, tools=[tool], tool_choice="none", temperature=0, max_output_tokens=24
    )
    assert after.output_text
