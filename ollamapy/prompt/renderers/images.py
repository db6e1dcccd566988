"""Where a turn's images go in its text."""

from __future__ import annotations

from ollamapy.prompt.go_values import SPACE
from ollamapy.prompt.renderers.conversation import Turn


def with_images(turn: Turn, first: int = 0) -> str:
    """The content with `[img-N]` for each image, numbered from first.

    They fill the content's `[img]` places in order; those left over go in front. A content that numbers its
    images itself stays as it is.
    """
    content = turn.content
    if "[img-" in content:
        return content
    ahead = ""
    for number in range(first, first + turn.images):
        if "[img]" in content:
            content = content.replace("[img]", f"[img-{number}]", 1)
        else:
            ahead += f"[img-{number}]"
    blank = " " if ahead and content and content[0] not in SPACE + "\ufffd" else ""
    return ahead + blank + content
