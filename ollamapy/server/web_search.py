"""The web search of Anthropic's and OpenAI's own servers. Agents offer it with every request, so models get to know it
as the function that Ollama makes of it; a search itself fails, as it does on an Ollama without an account."""

from __future__ import annotations

from typing import Any

NAME = "web_search"


def is_search(tool: dict[str, Any]) -> bool:
    """Whether a tool is the server's own search: `web_search`, or with the date of a version."""
    kind = tool.get("type")
    return isinstance(kind, str) and kind.startswith(NAME)


def function(description: str, query: str) -> dict[str, Any]:
    """The search as a function, with its dialect's descriptions of it and of its argument."""
    properties = {"query": {"type": "string", "description": query}}
    parameters = {"type": "object", "required": ["query"], "properties": properties}
    return {
        "type": "function",
        "function": {"name": NAME, "description": description, "parameters": parameters},
    }


def query_of(arguments: dict[str, Any]) -> str:
    """What a call asks; empty for nothing."""
    query = arguments.get("query")
    return query if isinstance(query, str) else ""
