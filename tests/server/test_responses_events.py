"""The order of a streamed response's items where a model speaks before it calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ollamapy.prompt.parsers import Content, Thinking, ToolCall
from ollamapy.server.conversation import Reply
from ollamapy.server.openai_responses import Writer
from ollamapy.server.openai_responses_input import ResponsesRequest

REPLIES = [
    Reply(pieces=[Thinking("hm")]),
    Reply(pieces=[Content("Let me ")]),
    Reply(pieces=[Content("look."), ToolCall("look", {"at": "it"}, "call_1")]),
    Reply(pieces=[ToolCall("look", {"at": "more"}, "call_2")], done_reason="stop"),
]


def written(orderly: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events, and the output of the finished response."""
    asked = msgspec.convert({"model": "m", "input": "x", "stream": True}, ResponsesRequest)
    writer = Writer(asked, False, False, orderly)
    events = [event.data for reply in REPLIES for event in writer.events(reply)]
    events += [event.data for event in writer.end(REPLIES[-1])]
    return events, writer.ended(REPLIES[-1], whole=False)["output"]


def items(events: list[dict[str, Any]], kind: str) -> list[tuple[str, int]]:
    wanted = f"response.output_item.{kind}"
    return [(e["item"]["type"], e["output_index"]) for e in events if e["type"] == wanted]


def test_ollama_leaves_a_message_before_calls_open_and_lists_it_last() -> None:
    events, output = written(orderly=False)
    added = [("reasoning", 0), ("message", 1), ("function_call", 1), ("function_call", 2)]
    assert items(events, "added") == added
    assert items(events, "done") == [added[0], *added[2:]]
    assert not [e for e in events if e["type"] in ("response.output_text.done", "response.content_part.done")]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "function_call", "message"]
    assert output[-1]["content"][0]["text"] == "Let me look."


def test_clients_that_read_item_by_item_get_each_closed_in_order() -> None:
    events, output = written(orderly=True)
    order = ["reasoning", "message", "function_call", "function_call"]
    assert items(events, "added") == items(events, "done") == [(kind, i) for i, kind in enumerate(order)]
    assert [item["type"] for item in output] == order
    assert output[1]["content"][0]["text"] == "Let me look."


@pytest.mark.parametrize("orderly", [False, True])
def test_a_message_without_calls_is_closed(orderly: bool) -> None:
    asked = msgspec.convert({"model": "m", "input": "x", "stream": True}, ResponsesRequest)
    writer = Writer(asked, False, False, orderly)
    reply = Reply(pieces=[Content("Hi")], done_reason="stop")
    events = [event.data for event in [*writer.events(reply), *writer.end(reply)]]
    assert items(events, "added") == items(events, "done") == [("message", 0)]
    assert [item["type"] for item in writer.ended(reply, whole=False)["output"]] == ["message"]
