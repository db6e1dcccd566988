"""Where images stand in a prompt: each as a tag in the text of its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PLACE = "[img]"  # in a message: here goes its next image


def tagged(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with [img-N] for each image, N counting through the conversation.

    A message's images go where it has places for them, those left over to its front.
    """
    count = 0
    found = []
    for message in messages:
        text, front = message.get("content") or "", ""
        for _ in message.get("images") or ():
            tag = f"[img-{count}]"
            count += 1
            if _PLACE in text:
                text = text.replace(_PLACE, tag, 1)
            else:
                front += tag
        found.append({**message, "content": front + text})
    return found
