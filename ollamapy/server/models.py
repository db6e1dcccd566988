"""A stored model as requests see it: its names, what it can do, and how its prompts are written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollamapy.prompt.chatml import render_chatml
from ollamapy.prompt.jinja import JinjaTemplate
from ollamapy.server.errors import NotFoundError
from ollamapy.store.errors import ModelNotFoundError
from ollamapy.store.facts import Facts, facts_of
from ollamapy.store.names import ModelName
from ollamapy.store.store import Store, StoredModel


@dataclass(frozen=True)
class ServedModel:
    """A model that a request named."""

    asked: str  # the name as the request wrote it
    stored: StoredModel
    facts: Facts

    @property
    def key(self) -> str:
        """What tells resident models apart: the weights."""
        return self.stored.model_path.name

    @property
    def path(self) -> str:
        return str(self.stored.model_path)

    @cached_property
    def jinja(self) -> JinjaTemplate | None:
        source = self.facts.chat_template
        return None if source is None else JinjaTemplate(source, self.facts.bos, self.facts.eos)

    @cached_property
    def capabilities(self) -> list[str]:
        """Of completion, embedding, tools, thinking."""
        found = ["embedding" if self.facts.pooled else "completion"]
        if not self.facts.pooled and self.jinja is not None:
            found += [name for name in ("tools", "thinking") if name in self.jinja.capabilities]
        return found

    def can(self, capability: str) -> bool:
        return capability in self.capabilities

    def render_chat(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], think: bool | str | None
    ) -> str:
        """The prompt of a conversation, ChatML for a model without a template. Raises template errors."""
        if self.jinja is None:
            return render_chatml(messages)
        text = self.jinja.render(messages, tools, think)
        bos = self.facts.bos
        return text[len(bos) :] if bos and self.facts.add_bos and text.startswith(bos) else text

    def render_generate(self, prompt: str, system: str, think: bool | str | None) -> str:
        """The prompt of a single question; the bare one for a model without a template."""
        if self.jinja is None:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return self.render_chat(messages, [], think)


def served(store: Store, asked: str, name: ModelName) -> ServedModel:
    """Look a model up and read its header; blocks. Raises ModelNotFoundError, StoreError, GGUFError."""
    stored = store.get(name)
    return ServedModel(asked, stored, facts_of(stored.model_path))


async def find_model(store: Store, asked: str) -> ServedModel:
    """The model of a name. Raises InvalidNameError, and NotFoundError that repeats the name as it was
    asked."""
    if not asked:
        raise NotFoundError("model '' not found")
    name = ModelName.parse(asked)
    try:
        return await asyncio.to_thread(served, store, asked, name)
    except ModelNotFoundError:
        raise NotFoundError(f"model '{asked}' not found") from None
