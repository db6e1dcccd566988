"""What the dialects of OpenAI and Anthropic answer to odd requests, as their own servers or Ollama do."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from typing import Any

import httpx
import pytest

from tests.server.full_bodies import prepare
from tests.server.harness import RunningServer
from tests.server.test_defence import EVERYWHERE, expected, message_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ASK: list[Any] = [{"role": "user", "content": "hello"}]
FUNCTION = {"type": "function", "name": "f"}


def post(server: RunningServer, path: str, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"model": "echo", **body}, timeout=30, **more)


@pytest.fixture
def tooled(scripted: RunningServer) -> RunningServer:
    """The scripted server with a model `tooled` that can be offered tools and shows all of its prompt."""
    template = "{{ range .Tools }}[{{ .Function.Name }}]{{ end }}"
    template += "{{ range .Messages }}{{ .Role }}:{{ .Content }} {{ end }}"
    made = post(
        scripted, "/api/create", {"model": "tooled", "from": "echo", "template": template, "stream": False}
    )
    assert made.json() == {"status": "success"}
    return scripted


def prompt_of(server: RunningServer) -> str:
    return "".join(map(chr, server.engine.requests[-1].prompt))


@EVERYWHERE
@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_compressed_bodies(
    scripted: RunningServer, method: str, path: str, body: dict[str, Any], encoding: str
) -> None:
    prepare(scripted)
    data = json.dumps(body).encode()
    packed = zstd.compress(data) if encoding == "zstd" else gzip.compress(data)

    def sent(content: bytes) -> httpx.Response:
        headers = {"Content-Encoding": encoding}
        return httpx.request(method, f"{scripted.url}{path}", content=content, headers=headers, timeout=30)

    answer = sent(packed)
    assert answer.status_code == expected(path), answer.text
    broken = sent(b"no " + packed)
    assert broken.status_code == 400 and "cannot be read" in message_of(path, broken.json())


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/responses", {"input": "hello"}), ("/v1/messages", {"messages": ASK, "max_tokens": 9})],
)
def test_streams_that_are_not_to_be_kept(scripted: RunningServer, path: str, body: dict[str, Any]) -> None:
    """From where a request has been understood on, its refusal included."""

    def kept(**more: Any) -> str | None:
        return post(scripted, path, body | more).headers.get("Cache-Control")

    assert kept(stream=True) == kept(stream=True, model="missing") == "no-cache"
    assert kept() is kept(model="missing") is None
    wrong = {"input": [5]} if "input" in body else {"messages": [{"role": "user", "content": 5}]}
    assert kept(stream=True, **wrong) is None
    assert (
        "Cache-Control"
        not in post(scripted, "/v1/chat/completions", {"messages": ASK, "stream": True}).headers
    )


def test_a_page_may_use_anthropics_client(scripted: RunningServer) -> None:
    wanted = {"x-api-key", "anthropic-version", "anthropic-dangerous-direct-browser-access", "x-stainless-os"}
    asked = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(sorted(wanted)),
    }
    for path, more in (
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/chat/completions", False),
    ):
        answer = httpx.options(f"{scripted.url}{path}", headers=asked)
        names = set(answer.headers["Access-Control-Allow-Headers"].lower().split(","))
        assert answer.status_code == 204 and (wanted <= names) is more
    refused = httpx.options(f"{scripted.url}/v1/messages", headers={**asked, "Origin": "http://evil.example"})
    assert refused.status_code == 403 and "Access-Control-Allow-Headers" not in refused.headers


def test_embeddings_of_an_empty_text(scripted: RunningServer) -> None:
    for empty in ("", [""]):
        answer = post(scripted, "/v1/embeddings", {"model": "vectors", "input": empty}).json()
        assert [entry["index"] for entry in answer["data"]] == [0]
    for nothing in (None, []):
        assert post(scripted, "/v1/embeddings", {"model": "vectors", "input": nothing}).status_code == 400


def test_a_model_is_named_as_it_was_asked_for(scripted: RunningServer) -> None:
    for name in ("echo", "echo:latest", "library/echo"):
        assert httpx.get(f"{scripted.url}/v1/models/{name}").json()["id"] == name


@pytest.mark.parametrize("url", ["data:;base64,{}", "data:image/png;base64,{}"])
def test_images_in_lines(scripted: RunningServer, url: str) -> None:
    """Base64 as mail and encodebytes() write it; the model is what refuses."""
    image = base64.encodebytes(bytes(200)).decode()
    assert "\n" in image.strip()
    part = {"type": "image_url", "image_url": {"url": url.format(image)}}
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}}
    for path, content in (("/v1/chat/completions", part), ("/v1/messages", block)):
        messages = [{"role": "user", "content": [content]}]
        answer = post(scripted, path, {"messages": messages, "max_tokens": 5})
        assert answer.status_code == 400 and "does not support images" in message_of(path, answer.json())


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ({"data": "AAAA", "format": "wav"}, "does not support images"),
        ({"data": 5}, "invalid input_audio format: missing data"),
        (None, "invalid input_audio format"),
        ({"data": "?"}, "invalid input_audio base64 data"),
    ],
)
def test_audio_is_refused_in_words(scripted: RunningServer, audio: Any, words: str) -> None:
    messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}]
    answer = post(scripted, "/v1/chat/completions", {"messages": messages})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_a_call_without_arguments(tooled: RunningServer) -> None:
    for arguments in ("null", "", "{}"):
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
        messages.append({"role": "tool", "tool_call_id": "c1", "content": "result"})
        assert (
            post(tooled, "/v1/chat/completions", {"model": "tooled", "messages": messages}).status_code == 200
        )


def test_response_formats_in_any_spelling(scripted: RunningServer) -> None:
    for kind, status in ((" JSON_Object", 200), ("Text", 200), ("xml", 400), (None, 400), ([], 400)):
        body = {"messages": ASK, "response_format": {"type": kind}}
        assert post(scripted, "/v1/chat/completions", body).status_code == status


def test_what_is_wrong_first_is_said_first(scripted: RunningServer) -> None:
    """As Ollama orders it: the limits of a request before its model."""
    body = {"model": "missing", "messages": ASK, "top_logprobs": 21}
    assert "top_logprobs" in post(scripted, "/v1/chat/completions", body).json()["error"]["message"]


def test_tools_are_echoed_with_all_their_fields(tooled: RunningServer) -> None:
    search = {"type": "web_search", "search_context_size": "low"}
    body = {"model": "tooled", "input": "hello", "tools": [FUNCTION, search]}
    answer = post(tooled, "/v1/responses", body).json()
    assert answer["tools"] == [{**FUNCTION, "description": None, "strict": None, "parameters": None}, search]
    assert prompt_of(tooled).startswith("[f][web_search]")


def test_what_cannot_be_repeated_is_refused(tooled: RunningServer) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    for stream in (False, True):
        body = {"model": "tooled", "input": "hello", "tools": [{**FUNCTION, "x": deep}], "stream": stream}
        answer = post(tooled, "/v1/responses", body)
        assert answer.status_code == 400 and "nest too deep" in answer.json()["error"]["message"]
    for member in (5, [5]):
        body = {"model": "tooled", "input": "hello", "tools": [{"type": "namespace", "tools": member}]}
        answer = post(tooled, "/v1/responses", body)
        assert answer.status_code == 400 and "list of tools" in answer.json()["error"]["message"]


def test_errors_in_input_items_name_the_item(scripted: RunningServer) -> None:
    for item, words in (
        (
            {"role": "user", "content": [{"type": "strange"}]},
            "input[0]: content[0]: unknown content type: strange",
        ),
        ({"role": "user", "content": 5}, "input[0]: content must be a string or array"),
        ({"type": "function_call_output", "output": 5}, "input[0]: output must be a string or array"),
        ({"type": "strange"}, 'input[0]: unknown input item type: "strange"'),
    ):
        answer = post(scripted, "/v1/responses", {"input": [item]})
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, words)


def test_tools_of_anthropics(tooled: RunningServer) -> None:
    own = {"name": "web_search", "input_schema": {"type": "object"}}
    tools = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "web_search_20260209", "name": "web_search"},
        own,
    ]
    body = {"model": "tooled", "messages": ASK, "max_tokens": 9}
    assert post(tooled, "/v1/messages", {**body, "tools": tools}).status_code == 200
    assert prompt_of(tooled).startswith("[bash][web_search]user:")
    refused = post(
        tooled, "/v1/messages", {**body, "tools": [{"type": "code_execution_20250522", "name": "x"}]}
    )
    assert refused.status_code == 400 and "only Anthropic's servers" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            [{"type": "web_search_result", "title": "A", "url": "http://a"}] * 2,
            "tool:- A: http://a\n- A: http://a\n",
        ),
        (
            {"type": "web_search_tool_result_error", "error_code": "unavailable"},
            "tool:web_search_tool_result_error: unavail",
        ),
        ("text", "tool:text"),
        ([5], "tool: "),
    ],
)
def test_searches_of_anthropics_are_history(tooled: RunningServer, found: Any, words: str) -> None:
    use = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "a"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": found}
    messages = [*ASK, {"role": "assistant", "content": [use, result]}, {"role": "user", "content": "And?"}]
    body = {"model": "tooled", "messages": messages, "max_tokens": 9}
    assert post(tooled, "/v1/messages", body).status_code == 200
    assert words in prompt_of(tooled)


def test_images_in_results_need_a_source(tooled: RunningServer) -> None:
    for source, words in (
        (None, "invalid tool_result image source"),
        ({"type": "url"}, "source type: url. Only base64"),
    ):
        block = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}
        body = {"model": "tooled", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
        answer = post(tooled, "/v1/messages", body)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]


def test_documents_are_read_where_they_are_text(tooled: RunningServer) -> None:
    part = {"type": "text", "text": "It is blue."}
    for block, words in (
        (
            {"type": "document", "title": "Sky", "source": {"type": "text", "data": "It is blue."}},
            "user:Sky\nIt is blue.\n\nWhy?",
        ),
        (
            {"type": "document", "context": "seen", "source": {"type": "content", "content": [part]}},
            "user:seen\nIt is blue.\n\nWhy?",
        ),
        (
            {"type": "search_result", "title": "Sky", "source": "sky.txt", "content": [part]},
            "user:Sky\nsky.txt\nIt is blue.\n\nWhy?",
        ),
        (
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "search_result", "content": [part]}],
            },
            "tool:It is blue.\n\n",
        ),
    ):
        messages = [{"role": "user", "content": [block, {"type": "text", "text": "Why?"}]}]
        body = {"model": "tooled", "messages": messages, "max_tokens": 9}
        assert post(tooled, "/v1/messages", body).status_code == 200
        assert words in prompt_of(tooled)
    for source in (
        {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
        {"type": "url"},
        None,
    ):
        messages = [{"role": "user", "content": [{"type": "document", "source": source}]}]
        body = {"model": "tooled", "messages": messages, "max_tokens": 9}
        assert "documents of type" in post(tooled, "/v1/messages", body).json()["error"]["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "c"},
        {"prompt": {"id": "p"}},
        {"background": True},
    ],
)
def test_what_would_have_to_be_stored_is_refused(scripted: RunningServer, more: dict[str, Any]) -> None:
    for stream in (False, True):
        answer = post(scripted, "/v1/responses", {"input": "hello", "stream": stream, **more})
        assert answer.status_code == 400
        assert "not supported: nothing is stored" in answer.json()["error"]["message"]


def test_a_choice_among_some_tools(tooled: RunningServer) -> None:
    """OpenAI's fourth form of tool_choice, as chat and as responses nest it."""
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    named = [{"type": "function", "function": {"name": "g"}}]

    def chosen(allowed: Any) -> httpx.Response:
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        return post(
            tooled,
            "/v1/chat/completions",
            {"model": "tooled", "messages": ASK, "tools": tools, "tool_choice": choice},
        )

    assert chosen({"mode": "auto", "tools": named}).status_code == 200
    assert prompt_of(tooled).startswith("[g]user:") and tooled.engine.requests[-1].constraint is None
    assert chosen({"mode": "required", "tools": named}).status_code == 200
    grammar = tooled.engine.requests[-1].constraint.grammar
    assert "call_0" in grammar and '\\"g\\"' in grammar and "call_1" not in grammar
    for wrong, words in (
        (
            {"mode": "required", "tools": [{"type": "function", "function": {"name": "h"}}]},
            "'h', which is not",
        ),
        ({"mode": {}, "tools": named}, "the mode of allowed_tools"),
        ({"mode": "auto", "tools": 5}, "needs a list of tools"),
        ([1], "needs a list of tools"),
    ):
        answer = chosen(wrong)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    flat = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    body = {"input": "hello", "tools": [{"type": "function", "name": "g"}, FUNCTION], "tool_choice": flat}
    assert post(tooled, "/v1/responses", {"model": "tooled", **body}).status_code == 200
    assert prompt_of(tooled).startswith("[g]user:")


@pytest.mark.parametrize("key", ["9" * 5000, "-1", "x", "", "²", "١", "1.0", str(1 << 31)])
def test_a_bias_is_of_a_token(scripted: RunningServer, key: str) -> None:
    answer = post(scripted, "/v1/chat/completions", {"messages": ASK, "logit_bias": {key: 1}})
    assert answer.status_code == 400 and "is not a token id" in answer.json()["error"]["message"]


def test_integers_beyond_64_bits_are_floats(tooled: RunningServer) -> None:
    """As Go reads them; what is repeated in an answer can be written then."""
    tool = {**FUNCTION, "parameters": {"type": "object", "properties": {"a": {"maximum": 10**30}}}}
    answer = post(tooled, "/v1/responses", {"model": "tooled", "input": "hello", "tools": [tool]})
    assert answer.json()["tools"][0]["parameters"]["properties"]["a"]["maximum"] == 1e30
    for digits in (400, 5000):
        text = '{"model": "echo", "options": {"temperature": %s}}' % ("9" * digits)
        refused = httpx.post(f"{tooled.url}/api/chat", content=text)
        assert refused.status_code == 400 and "invalid JSON" in refused.json()["error"]
