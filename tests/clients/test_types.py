"""Everything that is answered, whole or in pieces, is of the types that OpenAI's and Anthropic's packages declare. The
packages themselves do not check: what is missing shows only where a program reads it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.clients.conftest import CHAT, EMBED, TOOLS
from tests.server.harness import RunningServer

ASK = [{"role": "user", "content": "What is the capital of France?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}},
    "required": ["city"],
}
FUNCTION = {"name": "get_weather", "description": "Weather", "parameters": PARAMETERS}
COOL = {"temperature": 0}

CHAT_BODY: dict[str, Any] = {"model": CHAT, "messages": ASK, "max_tokens": 24, **COOL}
CALLING = {
    "model": TOOLS,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "required",
    "max_tokens": 100,
}
RESPONSE: dict[str, Any] = {"model": CHAT, "input": ASK, "max_output_tokens": 24, **COOL}
SHAPE = {"type": "json_schema", "name": "city", "schema": PARAMETERS, "strict": True}
MESSAGE: dict[str, Any] = {"model": CHAT, "messages": ASK, "max_tokens": 24, **COOL}
USING = {
    "model": TOOLS,
    "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
    "tool_choice": {"type": "any"},
    "max_tokens": 100,
}
CASES: dict[str, tuple[str, Any, Any, list[dict[str, Any]]]] = {
    "chat": (
        "/v1/chat/completions",
        ChatCompletion,
        ChatCompletionChunk,
        [
            CHAT_BODY,
            CHAT_BODY | {"max_tokens": 1, "n": 2, "logprobs": True, "top_logprobs": 2},
            CHAT_BODY | CALLING,
        ],
    ),
    "completions": (
        "/v1/completions",
        Completion,
        Completion,
        [
            {"model": CHAT, "prompt": "Hello", "max_tokens": 8},
            {
                "model": CHAT,
                "prompt": ["Hello", [19556]],
                "max_tokens": 3,
                "n": 2,
                "logprobs": 2,
                "echo": True,
            },
        ],
    ),
    "responses": (
        "/v1/responses",
        Response,
        ResponseStreamEvent,
        [
            RESPONSE | {"reasoning": {"effort": "none", "summary": "auto"}, "instructions": "Be brief."},
            RESPONSE | {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            RESPONSE | {"max_output_tokens": 3, "input": "Tell a long story."},
            RESPONSE | {"text": {"format": SHAPE}},
            RESPONSE
            | {
                "model": TOOLS,
                "tools": [{"type": "function", **FUNCTION}],
                "tool_choice": "required",
                "max_output_tokens": 100,
            },
        ],
    ),
    "messages": (
        "/v1/messages",
        Message,
        RawMessageStreamEvent,
        [MESSAGE, MESSAGE | {"max_tokens": 2}, MESSAGE | {"stop_sequences": [" France"]}, MESSAGE | USING],
    ),
}


def post(server: RunningServer, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=120, headers={"X-Stainless-Lang": "python"})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("case", CASES)
def test_answers_and_streams(live: RunningServer, case: str) -> None:
    path, whole, event, bodies = CASES[case]
    for body in bodies:
        TypeAdapter(whole).validate_python(post(live, path, body).json())
        more: dict[str, Any] = {"stream": True}
        if case in ("chat", "completions"):
            more["stream_options"] = {"include_usage": True}
        lines = [
            line
            for line in post(live, path, body | more).text.strip().split("\n")
            if line.startswith("data: ")
        ]
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
        assert len(events) >= 3
        for value in events:
            if whole is event:  # of chunks OpenAI declares less than it sends: no reason before the end
                for choice in value["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
            TypeAdapter(event).validate_python(value)


def test_the_rest(live: RunningServer) -> None:
    vectors = post(live, "/v1/embeddings", {"model": EMBED, "input": ["a", "b"]}).json()
    CreateEmbeddingResponse.model_validate(vectors)
    listed = httpx.get(f"{live.url}/v1/models").json()["data"]
    assert len(listed) > 2
    for model in [*listed, httpx.get(f"{live.url}/v1/models/{CHAT}").json()]:
        Model.model_validate(model)
    counted = post(live, "/v1/messages/count_tokens", {"model": CHAT, "messages": ASK}).json()
    MessageTokensCount.model_validate(counted)
