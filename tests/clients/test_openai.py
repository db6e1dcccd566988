"""The tool loop of the openai package: chat completions and responses, in one answer and streamed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.clients.conftest import (
    ANSWER,
    ANSWER_TWO,
    CODER,
    MODEL,
    QUESTION,
    QUESTION_TWO,
    RESULT,
    RESULT_TWO,
    THOUGHT,
    WORDS,
)
from tests.server.harness import RunningServer

RESULTS = {"Zürich": RESULT, "Genève": RESULT_TWO}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["place", "unit"],
}
FUNCTION = {"name": "get_weather", "description": "Weather of a place", "parameters": SCHEMA}
LOOPS = pytest.mark.parametrize(
    ("question", "places", "answer"),
    [(QUESTION, ["Zürich"], ANSWER), (QUESTION_TWO, ["Genève", "Zürich"], ANSWER_TWO)],
    ids=["one", "two"],
)


def result(arguments: str) -> str:
    call = json.loads(arguments)
    assert call["unit"] == "celsius"
    return RESULTS[call["place"]]


@pytest.fixture
def client(agent: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{agent.url}/v1", api_key="unused", max_retries=0)


def streamed(client: openai.OpenAI, **arguments: Any) -> Any:
    """The completion that the package itself puts together from the events."""
    with client.chat.completions.stream(**arguments) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


@pytest.mark.parametrize("model", [MODEL, CODER])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@LOOPS
def test_chat_completions(
    client: openai.OpenAI, question: str, places: list[str], answer: str, stream: bool, model: str
) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    arguments: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "tools": [{"type": "function", "function": FUNCTION}],
    }

    def complete() -> Any:
        return streamed(client, **arguments) if stream else client.chat.completions.create(**arguments)

    asked = complete().choices[0]
    assert asked.finish_reason == "tool_calls"
    calls = asked.message.tool_calls
    assert [json.loads(call.function.arguments)["place"] for call in calls] == places
    assert len({call.id for call in calls}) == len(calls)
    messages.append(asked.message)
    for call in calls:
        content = result(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    answered = complete().choices[0]
    assert answered.message.content == answer
    assert answered.finish_reason == "stop"
    assert not answered.message.tool_calls


@LOOPS
def test_responses(client: openai.OpenAI, question: str, places: list[str], answer: str) -> None:
    inputs: list[Any] = [{"role": "user", "content": question}]
    tools: list[Any] = [{"type": "function", **FUNCTION}]
    asked = client.responses.create(model=MODEL, input=inputs, tools=tools)
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["place"] for call in calls] == places
    inputs += asked.output
    for call in calls:
        output = result(call.arguments)
        inputs.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    with client.responses.stream(model=MODEL, input=inputs, tools=tools) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        answered = stream.get_final_response()
    assert "".join(texts) == answered.output_text == answer
    assert answered.status == "completed"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_reasoning(client: openai.OpenAI, stream: bool) -> None:
    """Thoughts are in a field of their own, which the package hands on as it is."""
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [{"type": "function", "function": FUNCTION}],
    }
    if stream:
        chunks = [
            chunk.choices[0].delta for chunk in client.chat.completions.create(**arguments, stream=True)
        ]
        reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in chunks)
        content = "".join(delta.content or "" for delta in chunks)
    else:
        message = client.chat.completions.create(**arguments).choices[0].message
        reasoning, content = message.reasoning, message.content  # type: ignore[attr-defined]
    assert (reasoning, content) == (THOUGHT, WORDS)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_call_that_is_cut(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION_TWO}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "max_completion_tokens": 8,
    }
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**arguments, stream=True)]
        assert not any(choice.delta.tool_calls for choice in chunks)
        assert chunks[-1].finish_reason == "length"
    else:
        choice = client.chat.completions.create(**arguments).choices[0]
        assert not choice.message.tool_calls
        assert choice.finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"first", "second"}),
        ({"type": "function", "function": {"name": "second"}}, {"second"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "second"}}],
                },
            },
            {"second"},
        ),
    ],
    ids=["required", "named", "allowed"],
)
def test_a_call_is_enforced_after_the_thought(
    client: openai.OpenAI, choice: Any, names: set[str], stream: bool
) -> None:
    """The model thinks as it likes, and has to call then, though it would rather say something."""
    parameters = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    arguments: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [
            {"type": "function", "function": {"name": name, "parameters": parameters}}
            for name in ("first", "second")
        ],
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    if stream:
        chosen = [c.choices[0] for c in client.chat.completions.create(**arguments, stream=True) if c.choices]
        reasoning = "".join(getattr(c.delta, "reasoning", None) or "" for c in chosen)
        content = "".join(c.delta.content or "" for c in chosen)
        calls = [call for c in chosen for call in c.delta.tool_calls or []]
    else:
        chosen = client.chat.completions.create(**arguments).choices
        message = chosen[0].message
        reasoning, content = message.reasoning, message.content or ""  # type: ignore[attr-defined]
        calls = message.tool_calls or []
    assert (reasoning, content, chosen[-1].finish_reason) == (THOUGHT, "", "tool_calls")
    (call,) = calls
    assert call.function.name in names and json.loads(call.function.arguments)["n"] in (1, 2)


def test_one_call_where_more_are_not_wanted(client: openai.OpenAI) -> None:
    """The model calls twice; without parallel calls only the first is told."""
    more: dict[str, Any] = {"model": MODEL, "parallel_tool_calls": False}
    messages: list[Any] = [{"role": "user", "content": QUESTION_TWO}]
    tools: list[Any] = [{"type": "function", "function": FUNCTION}]
    whole = client.chat.completions.create(messages=messages, tools=tools, **more).choices[0]
    made = streamed(client, messages=messages, tools=tools, **more).choices[0]
    for choice in (whole, made):
        (call,) = choice.message.tool_calls
        assert (
            json.loads(call.function.arguments)["place"] == "Genève" and choice.finish_reason == "tool_calls"
        )
    flat: list[Any] = [{"type": "function", **FUNCTION}]
    answer = client.responses.create(input=messages, tools=flat, **more)
    with client.responses.stream(input=messages, tools=flat, **more) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    for response in (answer, final):
        assert len([item for item in response.output if item.type == "function_call"]) == 1
