"""How answers reach a client of the native API: thoughts, content and tool calls, in events and in one body."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from ollamapy.prompt.parsers import Content, Thinking, ToolCall
from ollamapy.server.conversation import Reply, portions, without_thought
from ollamapy.types import TokenLogprob
from tests.server.harness import RunningServer

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = '<tool_call>{"name": "add", "arguments": {"b": 1, "a": [2]}}</tool_call>'
TEMPLATE = (
    "{{ if .Tools }}{{ end }}{{ range .Messages }}{{ .Content }}{{ if .ToolCalls }}<tool_call>"
    '{{ range .ToolCalls }}{"name": "{{ .Function.Name }}"}{{ end }}</tool_call>{{ end }}{{ end }}'
)


def create(server: RunningServer, name: str, **more: Any) -> None:
    body = {"model": name, "from": "echo", "stream": False, **more}
    response = httpx.post(f"{server.url}/api/create", json=body, timeout=20)
    assert response.status_code == 200, response.text


def chat(server: RunningServer, model: str, text: str, **more: Any) -> httpx.Response:
    """What the scripted engine echoes: the words of the text, and `end`."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{server.url}/api/chat", json=body, timeout=20)


def test_calls_in_a_stream(scripted: RunningServer) -> None:
    create(scripted, "caller", template=TEMPLATE)
    response = chat(scripted, "caller", f"Sure. {CALL} {CALL} Done.", tools=TOOLS)
    events = [json.loads(line) for line in response.text.strip().split("\n")]
    calls = [call for event in events for call in event["message"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "add", "arguments": {"b": 1, "a": [2]}},
        {"index": 1, "name": "add", "arguments": {"b": 1, "a": [2]}},
    ]
    assert list(calls[0]["function"]["arguments"]) == ["b", "a"]  # as the model wrote them
    assert all(re.fullmatch("call_[a-z0-9]{8}", call["id"]) for call in calls)
    assert len({call["id"] for call in calls}) == 2
    assert "".join(event["message"]["content"] for event in events) == "Sure.  Done. end"
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["done_reason"] == "stop" and "tool_calls" not in events[-1]["message"]


def test_calls_in_one_body(scripted: RunningServer) -> None:
    create(scripted, "caller", template=TEMPLATE)
    message = chat(scripted, "caller", f"Sure. {CALL}", tools=TOOLS, stream=False).json()["message"]
    assert message["content"] == "Sure.  end"
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["add"]
    message = chat(scripted, "caller", f"Sure. {CALL}", stream=False).json()["message"]
    assert message == {"role": "assistant", "content": f"Sure. {CALL} end"}  # nobody offered a tool


def test_a_parser_makes_capabilities(scripted: RunningServer) -> None:
    create(scripted, "plain", parser="passthrough")
    create(scripted, "caller", parser="qwen3")
    create(scripted, "thinker", parser="qwen3-thinking")
    found = {}
    for name in ("plain", "caller", "thinker"):
        shown = httpx.post(f"{scripted.url}/api/show", json={"model": name}, timeout=20).json()
        found[name] = set(shown["capabilities"])
    assert found["plain"] == {"completion"}
    assert found["caller"] == {"completion", "tools"}
    assert found["thinker"] == {"completion", "tools", "thinking"}
    refused = chat(scripted, "plain", "x", tools=TOOLS)
    assert refused.status_code == 400 and "does not support tools" in refused.json()["error"]
    refused = chat(scripted, "caller", "x", think=True)
    assert refused.status_code == 400 and refused.json()["error"] == '"caller" does not support thinking'


@pytest.mark.parametrize("think", [None, True, "low", "max"])
def test_thoughts(scripted: RunningServer, think: bool | str | None) -> None:
    create(scripted, "thinker", parser="qwen3-thinking")
    more = {} if think is None else {"think": think}
    message = chat(scripted, "thinker", "hm hm</think> yes", stream=False, **more).json()["message"]
    assert (message["thinking"], message["content"]) == ("hm hm", "yes end")
    events = [
        json.loads(line) for line in chat(scripted, "thinker", "hm hm</think> yes", **more).text.splitlines()
    ]
    assert [e["message"].get("thinking", "") for e in events[:2]] == ["hm", " hm"]


def test_no_thoughts(scripted: RunningServer) -> None:
    create(scripted, "thinker", parser="qwen3-thinking")
    message = chat(scripted, "thinker", "hm</think> yes", stream=False, think=False).json()["message"]
    assert message == {"role": "assistant", "content": "hm</think> yes end"}


def test_a_broken_call_is_an_error_only_if_nothing_was_said(scripted: RunningServer) -> None:
    create(scripted, "caller", parser="qwen3")
    broken = '<tool_call>{"name": "add", "arg</tool_call>'
    for stream in (True, False):
        response = chat(scripted, "caller", broken, stream=stream, tools=TOOLS)
        assert response.status_code == 500
        assert response.json() == {"error": "failed to parse JSON: unexpected end of JSON input"}
    message = chat(scripted, "caller", f"Well: {broken}", stream=False, tools=TOOLS).json()["message"]
    assert message["content"] == f"Well:{broken} end"


def test_generate_reads_too(scripted: RunningServer) -> None:
    create(scripted, "thinker", parser="qwen3-thinking")
    body = {"model": "thinker", "prompt": "hm</think> yes", "stream": False, "think": True}
    value = httpx.post(f"{scripted.url}/api/generate", json=body, timeout=20).json()
    assert (value["thinking"], value["response"]) == ("hm", "yes end")
    value = httpx.post(f"{scripted.url}/api/generate", json={**body, "raw": True}, timeout=20).json()
    assert value["response"] == "hm</think> yes end" and "thinking" not in value


def test_text_that_was_held_back_leaves_in_portions() -> None:
    logprob = TokenLogprob(1, "x", b"x", -1.0)
    reply = Reply(pieces=[Content("a" * 45)], logprobs=[logprob], done_reason="stop")
    found = portions(reply, 1)
    assert [r.pieces for r in found] == [[Content("a" * 10)]] * 4 + [[Content("a" * 5)]]
    assert [len(r.logprobs) for r in found] == [1, 0, 0, 0, 0]
    assert not reply.pieces and not reply.logprobs and reply.done_reason == "stop"
    pieces = [Thinking("a" * 9), Content("b"), ToolCall("add", {})]
    assert [r.pieces for r in portions(Reply(pieces=list(pieces)), 3)] == [pieces]
    assert portions(Reply(), 0) == []


def test_old_thoughts() -> None:
    assert without_thought("<think>\na</think>\n\nb") == "b"
    assert without_thought("b <think>a</think>") == "b <think>a</think>"
