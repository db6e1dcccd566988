"""Which tools a request offers, and whether the answer has to be a call: OpenAI's and Anthropic's `tool_choice`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ollamapy.prompt.parsers.forced import forced_grammar
from ollamapy.server.formats import compiled
from ollamapy.types import RequestError


@dataclass(frozen=True)
class Choice:
    """tools: those that the prompt offers. grammar: of an answer that has to call."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    grammar: str | None = None


def _name(tool: dict[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _named(value: dict[str, Any]) -> Any:
    """The name in an OpenAI choice (chat nests it, responses do not) or an Anthropic one."""
    function = value.get("function")
    return function.get("name") if isinstance(function, dict) else value.get("name")


def _among(tools: list[dict[str, Any]], value: Any) -> tuple[list[dict[str, Any]], Any]:
    """The tools that an allowed_tools choice names, and what it makes of them: its mode. Raises RequestError."""
    named = value.get("tools") if isinstance(value, dict) else None
    if not isinstance(named, list) or not all(isinstance(tool, dict) for tool in named):
        raise RequestError("tool_choice: allowed_tools needs a list of tools")
    mode = value.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise RequestError('tool_choice: the mode of allowed_tools must be "auto" or "required"')
    names = [_named(tool) for tool in named]
    for name in names:
        if name is None or name not in map(_name, tools):
            raise RequestError(f"tool_choice names {name!r}, which is not among the tools")
    return [tool for tool in tools if _name(tool) in names], mode


async def choose(tools: list[dict[str, Any]], value: Any, parallel: bool) -> Choice:
    """What tool_choice makes of the tools, in OpenAI's or Anthropic's words. Raises RequestError."""
    allowed = tools
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed, value = _among(tools, value.get("allowed_tools", value))
    kind = value.get("type") if isinstance(value, dict) else value
    if kind in (None, "", "auto"):
        return Choice(allowed)
    if kind == "none":
        return Choice()
    if not allowed:
        raise RequestError("tool_choice is only allowed when tools are specified")
    if kind in ("function", "tool"):
        name = _named(value) if isinstance(value, dict) else None
        allowed = [tool for tool in tools if name is not None and _name(tool) == name]
        if not allowed:
            raise RequestError(f"tool_choice names {name!r}, which is not among the tools")
        parallel = False
    elif kind not in ("required", "any"):
        raise RequestError("tool_choice must be none, auto, required, or name a function")
    return Choice(tools, await compiled(forced_grammar, allowed, parallel))
