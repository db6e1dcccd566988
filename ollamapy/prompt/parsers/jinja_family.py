"""Which family's answers a Jinja template is for, by what it writes of a call."""

from __future__ import annotations

# What all must stand in the template, and the parser; the first that fits is taken. A second name is for templates
# that write thoughts.
_MARKS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("<|channel|>", "<|message|>", "<|start|>"), "harmony", ""),
    (("<function=", "<parameter="), "qwen3-coder", "qwen3.5"),
    (("<arg_key>", "<arg_value>"), "glm-4.7", ""),
    (("<｜tool▁calls▁begin｜>", "```json"), "cogito", ""),
    (("<｜tool▁calls▁begin｜>",), "deepseek3", ""),
    (("[TOOL_CALLS]", "[ARGS]"), "ministral", ""),
    (("<|tool_call_start|>",), "lfm2", "lfm2-thinking"),
    (("<start_function_call>",), "functiongemma", ""),
    (("<|tool_call>", "call:"), "gemma4", ""),
    (("<|START_ACTION|>",), "cohere", ""),
    (("<function_calls>",), "olmo3", ""),
)


def jinja_family(source: str) -> str:
    """The name of the parser for a template's model, "" where its calls are JSON behind a tag, or nothing."""
    for marks, name, thinking in _MARKS:
        if all(mark in source for mark in marks):
            return thinking if thinking and "</think>" in source else name
    return ""
