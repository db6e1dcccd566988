"""Jinja chat templates of GGUF files, run in a sandbox with the extensions that Hugging Face templates
expect."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError

_PROBE = "a system text that no template brings of its own"
_MESSAGE_LIMIT = 64 << 20  # characters: a template that multiplies its input is stopped at the end


class _GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; for a prompt it is only its content."""

    tags = {"generation"}  # noqa: RUF012 (the base class says so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Raised(Exception):
    """raise_exception() of a template."""


def _raise(message: object) -> None:
    raise _Raised(str(message))


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
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlocks]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    try:
        return _environment().from_string(source)
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f" in line {line}" if line else ""
        raise TemplateSyntaxError(f"the model's chat template cannot be parsed{place}: {error}") from None
    except RecursionError:
        raise TemplateSyntaxError("the model's chat template nests too deeply") from None


class JinjaTemplate:
    """A chat template. Raises TemplateSyntaxError for a text that is none."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._template = _compile(source)
        self._bos = bos
        self._eos = eos

    @property
    def capabilities(self) -> set[str]:
        """What its text says the model can: "tools", "thinking"."""
        found = set()
        if "tools" in self.source or "tool_call" in self.source:
            found.add("tools")
        if "<think>" in self.source and "</think>" in self.source:
            found.add("thinking")
        return found

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | str | None = None,
    ) -> str:
        """The prompt for the next answer.

        A last message of the assistant is a beginning of that answer: its text follows the prompt. A template
        that never handles the system role gets its text at the head of the first user message. Raises
        TemplateRenderError when the template refuses or fails.
        """
        turns = [dict(message) for message in messages]
        prefill = ""
        if turns and turns[-1].get("role") == "assistant" and not turns[-1].get("tool_calls"):
            prefill = str(turns.pop().get("content") or "")
            if turns and turns[-1].get("role") == "assistant":
                raise TemplateSyntaxError("cannot have 2 or more assistant messages at the end of the list")
        if not self._handles_system:
            turns = _merge_system(turns)
        return self._render(turns, tools, think) + prefill

    @cached_property
    def _handles_system(self) -> bool:
        """Whether the text of a system message reaches the prompt: found by trying."""
        probe = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}]
        try:
            return _PROBE in self._render(probe, None, None)
        except TemplateRenderError:
            return False

    def _render(
        self, turns: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]] | None, think: bool | str | None
    ) -> str:
        variables: dict[str, Any] = {
            "messages": turns,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": True,
            "bos_token": self._bos,
            "eos_token": self._eos,
        }
        if think is not None:
            variables["enable_thinking"] = bool(think)
            if isinstance(think, str):
                variables["reasoning_effort"] = think
        return _guarded(lambda: self._template.render(variables))


def _merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    systems = [str(m.get("content") or "") for m in messages if m.get("role") == "system"]
    rest = [m for m in messages if m.get("role") != "system"]
    if not systems:
        return rest
    text = "\n\n".join(systems)
    for message in rest:
        if message.get("role") == "user":
            message["content"] = f"{text}\n\n{message.get('content') or ''}"
            return rest
    return [{"role": "user", "content": text}, *rest]


def _guarded(render: Callable[[], str]) -> str:
    try:
        text = render()
    except _Raised as error:
        raise TemplateRenderError(f"the model's chat template refuses these messages: {error}") from None
    except jinja2.TemplateError as error:
        raise TemplateRenderError(f"the model's chat template failed: {error}") from None
    except Exception as error:  # whatever an expression of the template can raise
        raise TemplateRenderError(
            f"the model's chat template failed: {type(error).__name__}: {error}"
        ) from None
    if len(text) > _MESSAGE_LIMIT:
        raise TemplateRenderError("the model's chat template wrote too much text")
    return text
