"""Jinja chat templates of GGUF files over a conversation, as Ollama has llama.cpp run them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ollamapy.prompt.chatml import take_prefill
from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.go_data import arguments_json, tools_json
from ollamapy.prompt.jinja_process import POOL

_ROUND_TRIPS = (
    "tool_response", "tool_results", "role'] == 'tool'", "role'] == \"tool\"", "role\"] == 'tool'",
    'role"] == "tool"', "message.role == 'tool'", 'message.role == "tool"', "ipython",
)  # fmt: skip
_LARGEST = 256 << 10  # characters of a template

Message = Mapping[str, Any]


@dataclass(frozen=True)
class _Traits:
    """What a template does with a conversation (jinja_sandbox.describe)."""

    system: bool
    objects: bool
    thinking: tuple[str, str]


@lru_cache(maxsize=32)
def _traits(source: str) -> _Traits:
    found = _asked({"source": source, "describe": True})["description"]
    return _Traits(found["system"], found["objects"], tuple(found["thinking"]))


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    answer = POOL.ask(request)
    message, line = answer.get("message"), answer.get("line")
    if answer.get("error") == "syntax":
        place = f" in line {line}" if line else ""
        raise TemplateSyntaxError(f"the model's chat template cannot be parsed{place}: {message}")
    if "error" in answer:
        raise TemplateRenderError(f"the model's chat template failed: {message}")
    return answer


def has_thinking(source: str) -> bool:
    """Whether a template's text says that its model thinks."""
    if "<think>" in source and "</think>" in source:
        return True
    splits = "content.split('</think>')" in source or 'content.split("</think>")' in source
    return splits and "reasoning_content" not in source and "<SPECIAL_12>" not in source


class JinjaTemplate:
    """A chat template; its text is looked at when it is rendered."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._bos = bos
        self._eos = eos

    @property
    def capabilities(self) -> set[str]:
        """What its text says the model can: "tools", "thinking"."""
        found = {"tools"} if "tools" in self.source or "tool_call" in self.source else set()
        return found | {"thinking"} if has_thinking(self.source) else found

    @property
    def has_tool_round_trip(self) -> bool:
        """Whether calls and their results have places, not only the offer of tools."""
        calls = "tool_calls" in self.source or "assistant_tool_call" in self.source
        return calls and any(text in self.source for text in _ROUND_TRIPS)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | str | None = None,
    ) -> str:
        """The prompt for the next answer; blocks.

        A last message of the assistant is a beginning of that answer: its text follows the prompt, after empty
        thoughts where the template writes thoughts. A template that never looks at a system message gets its
        text at the head of the next one. Raises TemplateSyntaxError for a text that is no template and for
        messages that no template can continue, TemplateRenderError when the template refuses or fails.
        """
        if len(self.source) > _LARGEST:
            raise TemplateSyntaxError("the model's chat template is too long")
        traits = _traits(self.source)
        try:
            turns = [self._turn(message, traits) for message in messages]
            variables = self._variables(tools, think, traits)
        except RecursionError:
            raise TemplateRenderError("tools or the arguments of a call nest too deeply") from None
        prefill = take_prefill(turns)
        if not traits.system and turns and turns[0]["role"] == "system":
            system = turns.pop(0)
            if turns:
                turns[0]["content"] = f"{system['content']}\n{turns[0]['content']}"
        variables["messages"] = turns
        asking = {**variables, "add_generation_prompt": True}
        if prefill is None:
            return str(self._texts([asking])[0])
        base, whole = self._texts([variables, asking])
        if not prefill:
            return base
        same = next((i for i, (a, b) in enumerate(zip(base, whole, strict=False)) if a != b), len(base))
        opening = whole[same:]
        start, end = traits.thinking
        if start:
            opening = opening.partition(start)[0] + start + end
        return base + opening + prefill

    def _texts(self, variables: list[dict[str, Any]]) -> list[str]:
        texts: list[str] = _asked({"source": self.source, "variables": variables})["texts"]
        return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]

    def _turn(self, message: Message, traits: _Traits) -> dict[str, Any]:
        """A message in the form and the order in which llama.cpp shows it."""
        role = message.get("role") or ""
        if role == "developer" and "<|channel|>" not in self.source:
            role = "system"
        turn: dict[str, Any] = {"role": role, "content": message.get("content") or ""}
        for key, name in (("tool_name", "name"), ("tool_call_id", "tool_call_id")):
            if message.get(key):
                turn[name] = message[key]
        if message.get("tool_calls"):
            turn["tool_calls"] = [_call(call, traits.objects) for call in message["tool_calls"]]
        return turn

    def _variables(
        self, tools: Sequence[Mapping[str, Any]] | None, think: bool | str | None, traits: _Traits
    ) -> dict[str, Any]:
        """All variables but the messages."""
        now = datetime.datetime.now()
        variables: dict[str, Any] = {
            "bos_token": self._bos,
            "eos_token": self._eos,
            "enable_thinking": any(traits.thinking) if think is None else bool(think),
            "datetime": now.strftime("%b %d %Y"),
            "date_string": now.strftime("%d %b %Y"),
        }
        if tools:
            variables["tools"] = tools_json(tools)
        if isinstance(think, str):
            variables["reasoning_effort"] = variables["reasoning_strength"] = think
        return variables


def _call(call: Mapping[str, Any], objects: bool) -> dict[str, Any]:
    function = call.get("function") or {}
    text = arguments_json(function.get("arguments"))
    arguments: Any = json.loads(text) if objects else text
    shown: dict[str, Any] = {
        "type": "function",
        "function": {"name": function.get("name") or "", "arguments": arguments},
    }
    if call.get("id"):
        shown["id"] = call["id"]
    return shown
