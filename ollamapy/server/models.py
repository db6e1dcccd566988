"""A stored model as requests see it: its names, what it can do, and how its prompts are written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollamapy.prompt.chatml import render_chatml
from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.go_chat import GoTemplate
from ollamapy.prompt.images import tagged
from ollamapy.prompt.jinja import JinjaTemplate
from ollamapy.prompt.parsers import Parser, Setup, family
from ollamapy.prompt.parsers.generic import GenericParser
from ollamapy.prompt.parsers.jinja_family import jinja_family
from ollamapy.prompt.renderers import Renderer, renderer
from ollamapy.prompt.template_tags import Tags, call_tag, jinja_tags, thinking_tags
from ollamapy.scheduler.reading import Reading
from ollamapy.scheduler.residency import Wanted
from ollamapy.server.errors import NotFoundError
from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.facts import Facts, facts_of
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store, StoredModel
from ollamapy.types import EngineError, RequestError

_SERVED = ("tools", "insert", "thinking")
_GPT_OSS = ("gptoss", "gpt-oss")
_NOBODY_CAN = ("vision", "audio", "image")

# So many wait for the disk for more than so many seconds: further ones are refused, each would take a thread.
_MANY_LOOKUPS, _PATIENCE = 64, 10.0
_LOOKUP_SECONDS = 300.0  # then a client has an error
_lookups: dict[asyncio.Future[ServedModel], float] = {}  # when they began

NO_TEMPLATE = "{{ .Prompt }}"  # what a model without a template is said to have

Think = bool | str | None
Render = Callable[[list[dict[str, Any]]], str]
"""messages to prompt"""


@dataclass(frozen=True)
class ServedModel:
    """A model that a request named."""

    asked: str  # the name as the request wrote it
    stored: StoredModel
    facts: Facts

    @property
    def wanted(self) -> Wanted:
        """What is to be in memory for it. Raises RequestError for more than one adapter."""
        stored, adapters = self.stored, self.stored.paths("adapter")
        if len(adapters) > 1:
            raise RequestError("only one adapter is currently supported")
        return Wanted(
            key=stored.weights,
            name=stored.name.short,
            path=str(stored.model_path),
            adapter=str(adapters[0]) if adapters else "",
            digest=stored.digest,
            details=details(stored),
        )

    @cached_property
    def template(self) -> JinjaTemplate | GoTemplate | None:
        """How its prompts are written: a TEMPLATE of the store, or its file's Jinja where that is better."""
        source = self.facts.chat_template
        own = None if self.stored.template is None else GoTemplate(self.stored.template)
        named = self.stored.config.renderer or self.stored.config.parser  # they expect their own TEMPLATE
        if named and own is None:
            return GoTemplate(NO_TEMPLATE)
        if source is None or named or self.speaks_harmony:
            return own
        jinja = JinjaTemplate(source, self.facts.bos, self.facts.eos)
        return jinja if own is None or _prefers(jinja, own) else own

    @cached_property
    def capabilities(self) -> list[str]:
        """Of completion, embedding, tools, insert, thinking: what requests can ask of it here.

        They come from the template, from the parser, and thinking from being a gpt-oss. What `info` said at its
        creation comes first.
        """
        said = list(self.stored.config.capabilities or [])
        return said + [name for name in self._found_capabilities() if name not in said]

    def _found_capabilities(self) -> list[str]:
        if self.facts.pooled:
            return ["embedding"]
        found = set() if self.template is None else self.template.capabilities
        parser = family(self.stored.config.parser)
        if parser is not None and parser.has_tools:
            found.add("tools")
        if (parser is not None and parser.has_thinking) or self.family in _GPT_OSS:
            found.add("thinking")
        return ["completion", *(name for name in _SERVED if name in found)]

    @cached_property
    def tags(self) -> Tags:
        """How its template writes thoughts and tool calls."""
        if isinstance(self.template, GoTemplate):
            tree = self.template.tree
            return Tags(thinking_tags(tree), call_tag(tree))
        return Tags() if self.template is None else jinja_tags(self.template.source)

    @property
    def parser_name(self) -> str:
        """PARSER of the model, or what goes without saying; "" for none."""
        return self.stored.config.parser or ("harmony" if self.speaks_harmony else "")

    @property
    def speaks_harmony(self) -> bool:
        """Whether it is a gpt-oss whose TEMPLATE writes its channels."""
        template = self.stored.template or ""
        return self.family in _GPT_OSS and "<|start|>" in template and "<|end|>" in template

    @property
    def family(self) -> str:
        return self.stored.config.model_family or self.facts.architecture

    def parser(self, setup: Setup, named: bool = True) -> Parser:
        """What reads an answer of this model: the parser it names, unless not named, or its template's.

        A Jinja tells by what it writes which family's calls it is for; else they are JSON behind a tag.
        """
        kind = family(self.parser_name) if named else None
        if kind is not None:
            return kind(setup)
        if named and isinstance(self.template, JinjaTemplate):
            kind = family(jinja_family(self.template.source))
            if kind is not None:
                parser = kind(setup)
                parser.by_prompt = True
                return parser
        return GenericParser(setup, self.tags)

    @property
    def template_text(self) -> str:
        """The template as `show` prints it."""
        if isinstance(self.template, JinjaTemplate):
            return self.template.source
        return self.stored.template or NO_TEMPLATE

    def can(self, capability: str) -> bool:
        """Whether it has a capability; some nothing here has, whatever a configuration says."""
        return capability in self.capabilities and capability not in _NOBODY_CAN

    @property
    def _renderer(self) -> Renderer | None:
        """Raises TemplateRenderError for a name that nobody knows."""
        if not self.stored.config.renderer:
            return None
        names = (self.stored.name.short, self.stored.name.full)
        return renderer(self.stored.config.renderer, names, self.stored.config.model_type)

    @property
    def leading_bos(self) -> str:
        """The BOS, in text, that prompts begin with where a renderer writes them."""
        try:
            return "" if (writer := self._renderer) is None else writer.leading_bos
        except TemplateRenderError:  # of a name that nobody knows: another template wrote the prompt
            return ""

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        think: Think,
        question: bool = False,
    ) -> str:
        """The prompt of a conversation, ChatML for a model without renderer and template; blocks.

        Without a renderer images become tags in the text; a template of the file refuses them in a
        conversation that is no question, as llama.cpp does without a projector. Raises template errors.
        """
        if (writer := self._renderer) is not None:
            return writer.render(messages, tools, think)
        native = not isinstance(self.template, GoTemplate)
        if native and not question and any(message.get("images") for message in messages):
            raise TemplateRenderError("image input is not supported by this model")
        messages = tagged(messages)
        if self.template is None:
            return render_chatml(messages)
        text = self.template.render(messages, tools, think)
        bos = self.facts.bos
        if isinstance(self.template, JinjaTemplate) and bos and self.facts.add_bos:
            text = text.removeprefix(bos)
        return text

    def generate_renderer(self, template: str, suffix: str, think: Think) -> Render:
        """How a single question, as a conversation of the model's history and it, is written.

        A model without a template gets the text as it is. template, if not empty, stands in for the model's own.
        Raises template errors.
        """
        own = self.template
        if template:
            try:
                own = GoTemplate(template)
            except TemplateSyntaxError as error:
                raise TemplateRenderError(str(error)) from None
        if suffix:
            assert isinstance(own, GoTemplate), "only a TEMPLATE has the capability insert"
            insert = own
            return lambda messages: insert.render_insert(messages[-1]["content"], suffix, think)
        if template:
            given = own
            assert given is not None
            return lambda messages: given.render(messages, None, think)
        if own is None and not self.stored.config.renderer:
            bare = GoTemplate("{{ .Prompt }}")
            return lambda messages: bare.render(tagged(messages), [], think)
        return lambda messages: self.render_chat(messages, [], think, question=True)


def details(stored: StoredModel) -> dict[str, Any]:
    """What the configuration says about a model."""
    config = stored.config
    parents = [layer.from_name for layer in stored.manifest.layers if layer.kind == "model"]
    return {
        "parent_model": parents[0] if parents else "",
        "format": config.model_format,
        "family": config.model_family,
        "families": config.model_families,
        "parameter_size": config.model_type,
        "quantization_level": config.file_type,
    }


def _prefers(jinja: JinjaTemplate, own: GoTemplate) -> bool:
    """Whether a file's Jinja wins over the model's TEMPLATE.

    It does when it can more, except over a TEMPLATE in which calls and their results have places, if it has
    none itself; of two that can offer tools the one with such places wins.
    """
    if len(jinja.capabilities) > len(own.capabilities):
        return jinja.has_tool_round_trip or not own.has_tool_round_trip
    same = jinja.capabilities == own.capabilities and "tools" in own.capabilities
    return same and jinja.has_tool_round_trip and not own.has_tool_round_trip


def served(store: Store, asked: str, name: ModelName) -> ServedModel:
    """Look a model up and read its header; blocks.

    Raises ModelNotFoundError, StoreError, GGUFError, and RequestError for a model that another server runs.
    """
    stored = store.get(name)
    if stored.config.remote_host:
        raise RequestError("this server cannot run this remote model")
    return ServedModel(asked, stored, facts_of(stored.model_path))


async def find_model(store: Store, asked: str) -> ServedModel:
    """The model of a name. Raises InvalidNameError, and NotFoundError that repeats the name as it was
    asked."""
    if not asked:
        raise NotFoundError("model '' not found")
    name = ModelName.parse_reference(asked)
    try:
        return await _look_up(served, store, asked, name)
    except ModelNotFoundError:
        raise NotFoundError(f"model '{asked}' not found") from None


async def _look_up(function: Callable[..., ServedModel], *arguments: object) -> ServedModel:
    """In a thread of its own: a disk that hangs must not take those that everything else uses."""
    now = time.monotonic()
    if sum(now - began > _PATIENCE for began in _lookups.values()) >= _MANY_LOOKUPS:
        raise EngineError("the model store does not answer")
    task = asyncio.ensure_future(Reading().run(function, *arguments))
    _lookups[task] = now
    task.add_done_callback(_lookups.pop)
    try:
        return await asyncio.wait_for(asyncio.shield(task), _LOOKUP_SECONDS)
    except asyncio.TimeoutError:
        raise EngineError(f"the model store has not answered for {_LOOKUP_SECONDS:g} s") from None
