"""Frameworks on OpenAI's and Anthropic's dialects against real models: LangChain, LlamaIndex, LiteLLM, Pydantic AI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from tests.clients.conftest import CHAT, EMBED, TOOLS

if TYPE_CHECKING:
    from tests.server.harness import RunningServer

QUESTION = "What is the capital of France?"
KEY = "unused"


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=150)


def test_langchain(live: RunningServer) -> None:
    openai = pytest.importorskip("langchain_openai")
    more: dict[str, Any] = {"base_url": f"{live.url}/v1", "api_key": KEY, "max_retries": 0}
    model = openai.ChatOpenAI(model=CHAT, temperature=0, max_tokens=24, stream_usage=True, **more)
    answer = model.invoke(QUESTION)
    assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == answer.content
    shaped = openai.ChatOpenAI(model=CHAT, temperature=0, max_tokens=100, **more)
    for method in ("json_schema", "json_mode"):
        if method == "json_schema":
            person = shaped.with_structured_output(Person, method=method).invoke("Ada is 36. Answer in JSON.")
            assert isinstance(person, Person)
    called = openai.ChatOpenAI(model=TOOLS, temperature=0, max_tokens=100, **more)
    person = called.with_structured_output(Person, method="function_calling").invoke("Ada is 36.")
    assert isinstance(person, Person)
    embeddings = openai.OpenAIEmbeddings(model=EMBED, check_embedding_ctx_length=False, **more)
    vectors = embeddings.embed_documents(["Hello", "Goodbye"])
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-5)


def test_langchain_sends_tokens_to_be_embedded(live: RunningServer) -> None:
    """Its default cuts texts into tokens of OpenAI's vocabulary: they are ids like any other."""
    openai = pytest.importorskip("langchain_openai")
    pytest.importorskip("tiktoken")
    model = openai.OpenAIEmbeddings(
        model=EMBED,
        base_url=f"{live.url}/v1",
        api_key=KEY,
        tiktoken_enabled=False,
        check_embedding_ctx_length=False,
    )
    assert len(model.embed_query("Hello")) == 384


async def test_llama_index(live: RunningServer) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like")
    ours = pytest.importorskip("llama_index.llms.ollama")
    embedder = pytest.importorskip("llama_index.embeddings.openai")
    native = pytest.importorskip("llama_index.embeddings.ollama")
    models = [
        like.OpenAILike(
            model=CHAT,
            api_base=f"{live.url}/v1",
            api_key=KEY,
            is_chat_model=True,
            temperature=0,
            max_tokens=24,
            max_retries=0,
        ),
        ours.Ollama(model=CHAT, base_url=live.url, temperature=0, context_window=2048, request_timeout=120),
    ]
    for model in models:
        whole = model.complete(QUESTION)
        assert "Paris" in whole.text
        assert [part.text async for part in await model.astream_complete(QUESTION)][-1] == whole.text
    vectors = [
        embedder.OpenAIEmbedding(model_name=EMBED, api_base=f"{live.url}/v1", api_key=KEY, max_retries=0),
        native.OllamaEmbedding(model_name=EMBED, base_url=live.url),
    ]
    one, other = (model.get_text_embedding("Hello") for model in vectors)
    assert one == pytest.approx(other, abs=1e-6)


async def test_litellm(live: RunningServer) -> None:
    litellm = pytest.importorskip("litellm")
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
    vectors = await litellm.aembedding(
        model=f"openai/{EMBED}", input=["Hello"], api_base=f"{live.url}/v1", api_key=KEY
    )
    assert math.hypot(*vectors.data[0]["embedding"]) == pytest.approx(1, abs=1e-5)


async def test_pydantic_ai(live: RunningServer) -> None:
    agents = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{live.url}/v1", api_key=KEY)
    plain = agents.Agent(
        OpenAIChatModel(CHAT, provider=provider), model_settings={"temperature": 0, "max_tokens": 24}
    )
    assert "Paris" in (await plain.run(QUESTION)).output
    async with plain.run_stream(QUESTION) as result:
        parts = [part async for part in result.stream_text(delta=True)]
    assert "Paris" in "".join(parts)
    # its structured output is a call of a tool that tool_choice requires
    shaped: Any = agents.Agent(
        OpenAIChatModel(TOOLS, provider=provider),
        output_type=Person,
        model_settings={"temperature": 0, "max_tokens": 100, "parallel_tool_calls": False},
    )
    assert isinstance((await shaped.run("Ada is 36.")).output, Person)
