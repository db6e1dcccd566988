"""The renderers by name. A family's file registers its own; importing it in __init__ is all it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.prompt.renderers.conversation import Think, Tool, Turn, tool_of, turn_of
from ollamapy.types import RequestError

Write = Callable[[Sequence[Turn], Sequence[Tool], Think], str]
"""turns, the tools on offer and whether to think → the prompt for the next answer"""

Turns = Sequence[Turn]
Tools = Sequence[Tool]


@dataclass(frozen=True)
class Renderer:
    """How a family's prompts are written.

    leading_bos is the token that its prompts begin with in text, and that a tokenizer which adds one must
    not see twice.
    """

    write: Write
    leading_bos: str = ""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: Think = None,
    ) -> str:
        """The prompt for the next answer. Raises RequestError for tools or messages that cannot be
        rendered."""
        try:
            turns = [turn_of(message) for message in messages]
            return self.write(turns, [tool_of(tool) for tool in tools or ()], think)
        except RecursionError:
            raise RequestError("a tool or the arguments of a call nest too deeply") from None


Choose = Callable[[Sequence[str], str], str]
"""a model's names and its size ("7.6B") → the name of the renderer it gets"""

_RENDERERS: dict[str, Renderer] = {}
_CHOICES: dict[str, Choose] = {}


def register(name: str, write: Write, leading_bos: str = "") -> None:
    """Make a renderer known under a name, as RENDERER in a Modelfile says it."""
    assert name not in _RENDERERS, f"two renderers are named {name}"
    _RENDERERS[name] = Renderer(write, leading_bos)


def register_choice(name: str, choose: Choose) -> None:
    """Let a model that asks for name have one of its variants by what it is called and how large it is."""
    _CHOICES[name] = choose


def renderer(name: str, models: Sequence[str] = (), size: str = "") -> Renderer:
    """The renderer of a name, for a model of these names and this size where that matters.

    Raises TemplateRenderError for an unknown one; case matters.
    """
    if name in _CHOICES:
        name = _CHOICES[name](models, size)
    try:
        return _RENDERERS[name]
    except KeyError:
        raise TemplateRenderError(f'unknown renderer "{name}"') from None


def names() -> list[str]:
    """All names, sorted."""
    return sorted({*_RENDERERS, *_CHOICES})
