"""The tool loop of LangChain's ChatOllama."""

from __future__ import annotations

from functools import reduce
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama

from tests.clients.conftest import ANSWER, ANSWER_TWO, MODEL, QUESTION, QUESTION_TWO, RESULT, RESULT_TWO
from tests.server.harness import RunningServer


@tool
def get_weather(place: str, unit: str) -> str:
    """Current weather of a place."""
    assert unit == "celsius"
    return {"Zürich": RESULT, "Genève": RESULT_TWO}[place]


def model(agent: RunningServer) -> Any:
    return ChatOllama(model=MODEL, base_url=agent.url).bind_tools([get_weather])


def test_loop(agent: RunningServer) -> None:
    chat = model(agent)
    messages: list[BaseMessage] = [HumanMessage(QUESTION)]
    asked: AIMessage = chat.invoke(messages)
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [
        ("get_weather", {"place": "Zürich", "unit": "celsius"})
    ]
    messages += [asked, *(get_weather.invoke(call) for call in asked.tool_calls)]
    answered = chat.invoke(messages)
    assert answered.content == ANSWER
    assert answered.response_metadata["done_reason"] == "stop"
    assert answered.usage_metadata["output_tokens"] > 0


def test_loop_streamed(agent: RunningServer) -> None:
    chat = model(agent)
    messages: list[BaseMessage] = [HumanMessage(QUESTION_TWO)]
    chunks: list[AIMessageChunk] = list(chat.stream(messages))
    asked = reduce(lambda whole, chunk: whole + chunk, chunks)
    assert [call["args"]["place"] for call in asked.tool_calls] == ["Genève", "Zürich"]
    messages += [asked, *(get_weather.invoke(call) for call in asked.tool_calls)]
    assert "".join(str(chunk.content) for chunk in chat.stream(messages)) == ANSWER_TWO


async def test_thinking(agent: RunningServer) -> None:
    chat = ChatOllama(model=MODEL, base_url=agent.url, reasoning=True)
    answered = await chat.ainvoke([HumanMessage(QUESTION)])
    assert answered.additional_kwargs["reasoning_content"] == "I have to ask the station."
