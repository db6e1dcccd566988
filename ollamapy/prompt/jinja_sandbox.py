"""Jinja as chat templates use it: the sandboxed environment with Hugging Face's extensions, and what rendering
a few conversations tells about a template.

Runs in the process of jinja_worker, which can be stopped; nothing else may import it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_TEXT = 16 << 20  # characters of a prompt
_THOUGHT = "thoughts of the assistant in between"
_MARKER = r"<[^<>]*>|\[[^\[\]]*\]"  # what a template puts around thoughts
_WRAPPED = re.compile(rf"((?:{_MARKER})\s*){_THOUGHT}(\s*(?:{_MARKER})\s*)")
_ENDED = re.compile(rf"{_THOUGHT}(\s*(?:{_MARKER})\s*)")


class RaisedError(jinja2.TemplateError):
    """raise_exception() of a template."""


class _GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; for a prompt it is only its content."""

    tags = {"generation"}  # noqa: RUF012 (the base class says so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: object) -> None:
    raise RaisedError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes: Jinja's own filter would write < as \\u003c, which no model has learned."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The environment of all templates."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlocks]
    )
    found.filters["tojson"] = _tojson
    found.globals["raise_exception"] = _raise
    found.globals["strftime_now"] = _strftime_now
    return found


@lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """Raises jinja2.TemplateSyntaxError."""
    return environment().from_string(source)


def render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The text of a template; raises what Python and Jinja raise, RaisedError if it refuses or is too long."""
    pieces: list[str] = []
    length = 0
    for piece in template.generate(variables):
        length += len(piece)
        if length > _MOST_TEXT:
            raise RaisedError("the prompt becomes too long")
        pieces.append(piece)
    return "".join(pieces)


class _Watched(dict[str, Any]):
    """A mapping that notes whether somebody looks at one of its keys."""

    def __init__(self, key: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.key = key
        self.used = False

    def __getitem__(self, key: str) -> Any:
        self.used = self.used or key == self.key
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.used = self.used or key == self.key
        return super().get(key, default)

    def items(self) -> Any:
        self.used = True
        return super().items()

    def values(self) -> Any:
        self.used = True
        return super().values()


def describe(template: jinja2.Template, source: str) -> dict[str, Any]:
    """What a template does with a conversation, found by rendering some as llama.cpp does.

    system: whether it looks at a system message's text. objects: whether it looks into the arguments of a call,
    which are given as JSON text otherwise. thinking: what it writes before and after thoughts, "" for nothing.
    """
    return {
        "system": _looks_at_system(template),
        "objects": _looks_into_arguments(template),
        "thinking": _thinking(template, source),
    }


def _attempt(template: jinja2.Template, messages: list[Any], **more: Any) -> str | None:
    variables = {"messages": messages, "bos_token": "", "eos_token": "", **more}
    try:
        return render(template, variables)
    except MemoryError:
        raise
    except Exception:  # whatever an expression of the template can raise
        return None


_QUESTION = {"role": "user", "content": "A question?"}


def _looks_at_system(template: jinja2.Template) -> bool:
    system = _Watched("content", {"role": "system", "content": "A system text."})
    _attempt(template, [system, _QUESTION], add_generation_prompt=True)
    return system.used


def _looks_into_arguments(template: jinja2.Template) -> bool:
    arguments = _Watched("arg", {"arg": "value"})
    call = {"id": "call00001", "type": "function", "function": {"name": "tool1", "arguments": arguments}}
    parameters = {"type": "object", "properties": {"arg": {"type": "string", "description": "An argument"}}}
    described = {"name": "tool1", "description": "A tool", "parameters": {**parameters, "required": ["arg"]}}
    messages = [
        _QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "A result", "tool_call_id": "call00001"},
        {"role": "assistant", "content": "An answer."},
        _QUESTION,
    ]
    tools = [{"type": "function", "function": described}]
    text = _attempt(template, messages, tools=tools, add_generation_prompt=True)
    return text is not None and arguments.used


def _thinking(template: jinja2.Template, source: str) -> tuple[str, str]:
    """The markers around thoughts: where an answer shows them, or where thinking is switched on or off."""
    start, end = "", ""
    answer = {"role": "assistant", "content": "An answer."}
    shown = _attempt(template, [_QUESTION, {**answer, "reasoning_content": _THOUGHT}], enable_thinking=True)
    if shown is not None and (found := _WRAPPED.search(shown)):
        start, end = found[1], found[2]
    elif shown is not None and (found := _ENDED.search(shown)):
        end = found[1]
    off = _attempt(template, [_QUESTION], enable_thinking=False, add_generation_prompt=True)
    on = _attempt(template, [_QUESTION], enable_thinking=True, add_generation_prompt=True)
    if off is not None and on is not None:
        added, removed = _difference(off, on)
        if not removed.strip() and added and added.strip() and on.endswith(added.strip()):
            start = start or added
        elif not added.strip() and removed and removed.strip() and off.endswith(removed.strip()) and not end:
            before = re.search(rf"({_MARKER})\s*$", off[: off.rindex(removed.strip())])
            start, end = (before[1] if before else start), removed
    if not start and not end and "content.split('</think>')" in source and "reasoning_content" not in source:
        return "<think>", "</think>"
    return start, end


def _difference(before: str, after: str) -> tuple[str, str]:
    """What the second text has that the first has not, and the other way round."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    behind = 0
    while behind < min(len(before), len(after)) - start and before[-1 - behind] == after[-1 - behind]:
        behind += 1
    return after[start : len(after) - behind], before[start : len(before) - behind]
