"""Frameworks against real models, over all dialects: LangChain, LlamaIndex, LiteLLM, Pydantic AI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import langchain_ollama
import langchain_openai
import litellm
import ollama
import openai
import pydantic
import pydantic_ai
import pytest
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conftest import CHAT, EMBED, TOOLS

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

QUESTION = "What is the capital of France?"
ADA = "Ada is 36. Answer in JSON."
KEY = "unused"


class Person(pydantic.BaseModel):
    """A person."""

    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)


class City(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=20)


async def test_langchain_openai(live: RunningServer) -> None:
    more: dict[str, Any] = {"base_url": f"{live.url}/v1", "api_key": KEY, "max_retries": 0, "temperature": 0}
    for responses in (False, True):
        model = langchain_openai.ChatOpenAI(
            model=CHAT, max_tokens=24, stream_usage=True, use_responses_api=responses, **more
        )
        answer = model.invoke(QUESTION)
        assert "Paris" in answer.text and answer.usage_metadata["output_tokens"] > 0
        chunks = [chunk async for chunk in model.astream(QUESTION)]
        assert len(chunks) > 3 and "".join(chunk.text for chunk in chunks) == answer.text
        used = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        assert [usage["output_tokens"] for usage in used] == [answer.usage_metadata["output_tokens"]]
    shaped = langchain_openai.ChatOpenAI(model=CHAT, max_tokens=100, **more)
    person = shaped.with_structured_output(Person, method="json_schema").invoke(ADA)
    assert isinstance(person, Person)
    called = langchain_openai.ChatOpenAI(model=TOOLS, max_tokens=100, **more)
    person = called.with_structured_output(Person, method="function_calling").invoke("Ada is 36.")
    assert isinstance(person, Person)
    with pytest.raises(openai.NotFoundError, match="not found"):
        langchain_openai.ChatOpenAI(model="missing", **more).invoke(QUESTION)


async def test_langchain_ollama(live: RunningServer) -> None:
    options: dict[str, Any] = {"base_url": live.url, "temperature": 0, "validate_model_on_init": True}
    model = langchain_ollama.ChatOllama(model=CHAT, num_predict=24, **options)
    answer = model.invoke(QUESTION)
    assert "Paris" in answer.content and answer.response_metadata["done_reason"] == "stop"
    chunks = [chunk async for chunk in model.astream(QUESTION)]
    assert len(chunks) > 3 and "".join(str(chunk.content) for chunk in chunks) == answer.content
    used = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert used == [answer.usage_metadata]
    shaped = langchain_ollama.ChatOllama(model=CHAT, num_predict=100, **options)
    assert isinstance(shaped.with_structured_output(Person, method="json_schema").invoke(ADA), Person)
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        shaped.bind_tools([Person]).invoke(ADA)
    offered = langchain_ollama.ChatOllama(model=TOOLS, num_predict=24, **options).bind_tools([Person])
    assert isinstance(offered.invoke(QUESTION), AIMessage)
    plain = langchain_ollama.OllamaLLM(model=CHAT, num_predict=24, **options)
    text = plain.invoke(QUESTION)
    assert "Paris" in text and "".join(plain.stream(QUESTION)) == text


def test_langchain_embeddings(live: RunningServer) -> None:
    """Those that send texts, those that send ids of the model's own vocabulary, and Ollama's."""
    ids = langchain_openai.OpenAIEmbeddings(
        model=EMBED, base_url=f"{live.url}/v1", api_key=KEY, max_retries=0, check_embedding_ctx_length=False
    )
    native = langchain_ollama.OllamaEmbeddings(model=EMBED, base_url=live.url)
    for text, vector in zip(["Hello", "Goodbye"], ids.embed_documents(["Hello", "Goodbye"]), strict=True):
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
        assert native.embed_query(text) == pytest.approx(vector, abs=1e-6)


async def test_llama_index(live: RunningServer) -> None:
    models = [
        OpenAILike(
            model=CHAT,
            api_base=f"{live.url}/v1",
            api_key=KEY,
            is_chat_model=True,
            temperature=0,
            max_tokens=24,
            max_retries=0,
        ),
        Ollama(model=CHAT, base_url=live.url, temperature=0, context_window=2048, request_timeout=120),
    ]
    for model in models:
        whole = model.complete(QUESTION)
        assert "Paris" in whole.text
        assert [part.text async for part in await model.astream_complete(QUESTION)][-1] == whole.text
        chat = [ChatMessage(role="user", content=QUESTION)]
        pieces = [part.delta for part in model.stream_chat(chat)]
        assert "".join(piece or "" for piece in pieces) == whole.text and len(pieces) > 3
    vectors = [
        OpenAIEmbedding(model_name=EMBED, api_base=f"{live.url}/v1", api_key=KEY, max_retries=0),
        OllamaEmbedding(model_name=EMBED, base_url=live.url),
    ]
    one, other = (model.get_text_embedding("Hello") for model in vectors)
    assert one == pytest.approx(other, abs=1e-6)


async def test_llama_index_shapes_and_calls(live: RunningServer) -> None:
    more: dict[str, Any] = {
        "api_base": f"{live.url}/v1",
        "api_key": KEY,
        "is_chat_model": True,
        "is_function_calling_model": True,
        "temperature": 0,
        "max_tokens": 100,
        "max_retries": 0,
    }
    compatible = OpenAILike(model=TOOLS, **more)
    person = await compatible.astructured_predict(Person, PromptTemplate(ADA))
    assert isinstance(person, Person)
    tool = FunctionTool.from_defaults(lambda city: city, name="get_weather", fn_schema=City)
    called = await compatible.achat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call, *_) = compatible.get_tool_calls_from_response(called)
    assert call.tool_name == "get_weather" and 0 < len(call.tool_kwargs["city"]) <= 20
    with pytest.raises(openai.NotFoundError, match="not found"):
        await OpenAILike(model="missing", **more).acomplete(QUESTION)
    options: dict[str, Any] = {"base_url": live.url, "temperature": 0, "context_window": 2048}
    shaped = Ollama(model=CHAT, additional_kwargs={"num_predict": 100}, **options)
    assert isinstance(await shaped.astructured_predict(Person, PromptTemplate(ADA)), Person)
    with pytest.raises(ollama.ResponseError, match="not found"):
        await Ollama(model="missing", **options).acomplete(QUESTION)


async def test_litellm(live: RunningServer) -> None:
    ask = [{"role": "user", "content": QUESTION}]
    routes: list[dict[str, Any]] = [
        {"model": f"openai/{CHAT}", "api_base": f"{live.url}/v1", "api_key": KEY},
        {"model": f"ollama_chat/{CHAT}", "api_base": live.url},
        {"model": f"anthropic/{CHAT}", "api_base": live.url, "api_key": KEY},
    ]
    for route in routes:
        more: dict[str, Any] = {
            **route,
            "messages": ask,
            "temperature": 0,
            "max_tokens": 24,
            "num_retries": 0,
        }
        whole = await litellm.acompletion(**more)
        text = whole.choices[0].message.content
        assert "Paris" in text and whole.usage.completion_tokens > 0, route
        stream = await litellm.acompletion(**more, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == text, route
        with pytest.raises(litellm.NotFoundError):
            await litellm.acompletion(**more | {"model": route["model"].replace(CHAT, "missing")})
        ada = {"messages": [{"role": "user", "content": ADA}], "max_tokens": 100, "response_format": Person}
        tooled = {"model": route["model"].replace(CHAT, TOOLS)}  # over Anthropic's dialect it asks for a call
        shaped = await litellm.acompletion(**more | ada | tooled)
        assert Person.model_validate_json(shaped.choices[0].message.content), route
    function = {"name": "get_weather", "description": "Weather", "parameters": City.model_json_schema()}
    for route in (routes[0], routes[2]):
        called = await litellm.acompletion(
            **{**route, "model": route["model"].replace(CHAT, TOOLS)},
            messages=ask,
            tools=[{"type": "function", "function": function}],
            tool_choice="required",
            temperature=0,
            max_tokens=100,
        )
        (call, *_) = called.choices[0].message.tool_calls
        assert City.model_validate_json(call.function.arguments).city, route
    vectors = await litellm.aembedding(
        model=f"openai/{EMBED}", input=["Hello"], api_base=f"{live.url}/v1", api_key=KEY
    )
    assert math.hypot(*vectors.data[0]["embedding"]) == pytest.approx(1, abs=1e-5)


async def test_pydantic_ai(live: RunningServer) -> None:
    provider = OpenAIProvider(base_url=f"{live.url}/v1", api_key=KEY)
    plain = pydantic_ai.Agent(
        OpenAIChatModel(CHAT, provider=provider), model_settings={"temperature": 0, "max_tokens": 24}
    )
    assert "Paris" in (await plain.run(QUESTION)).output
    async with plain.run_stream(QUESTION) as result:
        parts = [part async for part in result.stream_text(delta=True)]
    assert "Paris" in "".join(parts)
    # its structured output is a call of a tool that tool_choice requires
    shaped: Any = pydantic_ai.Agent(
        OpenAIChatModel(TOOLS, provider=provider),
        output_type=Person,
        model_settings={"temperature": 0, "max_tokens": 100, "parallel_tool_calls": False},
    )
    assert isinstance((await shaped.run("Ada is 36.")).output, Person)
    with pytest.raises(pydantic_ai.exceptions.ModelHTTPError, match="not found"):
        await pydantic_ai.Agent(OpenAIChatModel("missing", provider=provider)).run(QUESTION)
