"""ChatML, the form in which a conversation is written for a model that brings no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def render_chatml(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation and the opening of the next answer."""
    turns = [f"<|im_start|>{m.get('role', '')}\n{m.get('content') or ''}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"
