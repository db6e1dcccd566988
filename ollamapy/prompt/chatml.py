"""ChatML, the form in which a conversation is written for a model that brings no template; and how a last message of
the assistant begins its next answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ollamapy.prompt.errors import TemplateSyntaxError

_ROLES = {"developer": "system"}  # what has another name here


def take_prefill(turns: list[dict[str, Any]]) -> str | None:
    """Take the beginning of the next answer out of the turns; None if there is none.

    Raises TemplateSyntaxError for one that cannot be continued.
    """
    if not turns or turns[-1]["role"] != "assistant":
        return None
    last = turns.pop()
    if turns and turns[-1]["role"] == "assistant":
        raise TemplateSyntaxError("Cannot have 2 or more assistant messages at the end of the list.")
    if last.get("tool_calls"):
        raise TemplateSyntaxError("Cannot continue an assistant message that contains tool calls.")
    return str(last.get("content") or "")


def render_chatml(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation and the opening of the next answer. Raises TemplateSyntaxError."""
    turns = [{**message, "role": _ROLES.get(role := message.get("role", ""), role)} for message in messages]
    prefill = take_prefill(turns)
    text = "".join(f"<|im_start|>{turn['role']}\n{turn.get('content') or ''}<|im_end|>\n" for turn in turns)
    return text if prefill == "" else f"{text}<|im_start|>assistant\n{prefill or ''}"
