"""A stored TEMPLATE over a conversation, as Ollama runs it.

A template that reads .Messages gets the conversation as it is. An older one is run once per exchange with
.System, .Prompt and .Response; the last exchange ends where its answer begins.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ollamapy.prompt.errors import TemplateRenderError, TemplateSyntaxError
from ollamapy.prompt.go_data import Message, Tool, messages_value, tools_value, top
from ollamapy.prompt.gotemplate import Tree, execute, parse
from ollamapy.prompt.gotemplate.nodes import (
    Branch,
    Call,
    Command,
    Field,
    Node,
    Operand,
    Output,
    Pipeline,
)
from ollamapy.prompt.template_tags import thinking_tags

_ROUND_TRIPS = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")  # of a TEMPLATE that writes results


@lru_cache(maxsize=64)
def _parse(source: str) -> tuple[Tree, frozenset[str]]:
    """The tree and the names that it reads, with a place for the answer where an older template has none."""
    tree = parse(source)
    for nodes in (tree.nodes, *tree.defines.values()):
        if any(isinstance(node, Call) and node.argument is None for node in _every(nodes)):
            raise TemplateSyntaxError("undefined template specified")
    names = tree.names()
    if not names & {"messages", "response"}:
        end = len(source)
        response = Pipeline([Command([Field(["Response"], end)], end)], [], False, end)
        tree.nodes = [*tree.nodes, Output(response, end)]
    return tree, frozenset(names)


def _every(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Branch):
            yield from _every(node.body)
            yield from _every(node.otherwise or [])


@dataclass(frozen=True)
class Thinking:
    """What a request says of thinking: whether, how hard, and whether it says so at all."""

    think: bool = False
    level: str = ""
    is_set: bool = False

    @classmethod
    def of(cls, think: bool | str | None) -> Thinking:
        """think true is the level medium, as Ollama has it."""
        if isinstance(think, str):
            return cls(True, think, True)
        return cls(bool(think), "medium" if think else "", think is not None)

    def fields(self) -> dict[str, Any]:
        return {"Think": self.think, "ThinkLevel": self.level, "IsThinkSet": self.is_set}


class GoTemplate:
    """A TEMPLATE. Raises TemplateSyntaxError for a text that is none."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree, self._names = _parse(source)

    @property
    def capabilities(self) -> set[str]:
        """What the template has places for: "tools", "insert", "thinking"."""
        places = {"tools": "tools", "suffix": "insert"}
        found = {capability for name, capability in places.items() if name in self._names}
        return found | {"thinking"} if thinking_tags(self.tree) else found

    @property
    def has_tool_round_trip(self) -> bool:
        """Whether calls and their results have places, not only the offer of tools."""
        return {"tools", "toolcalls"} <= self._names and any(text in self.source for text in _ROUND_TRIPS)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        think: bool | str | None = None,
    ) -> str:
        """The prompt for the next answer. Raises TemplateRenderError."""
        thinking = Thinking.of(think)
        system, turns = _collate(messages)
        if "messages" in self._names:
            try:
                values: dict[str, Any] = {"Messages": messages_value(turns), "Tools": tools_value(tools)}
            except RecursionError:
                raise TemplateRenderError("template: the arguments of a call nest too deeply") from None
            values |= {"System": system, "Response": "", **thinking.fields()}
            return execute(self.tree, top(values))
        return self._render_exchanges(turns, thinking)

    def render_insert(self, prompt: str, suffix: str, think: bool | str | None = None) -> str:
        """The prompt for what goes between two texts. Raises TemplateRenderError."""
        values = {"Prompt": prompt, "Suffix": suffix, "Response": "", **Thinking.of(think).fields()}
        return execute(self.tree, top(values))

    def _render_exchanges(self, turns: list[dict[str, Any]], thinking: Thinking) -> str:
        written: list[str] = []
        exchange = {"System": "", "Prompt": "", "Response": ""}

        def flush() -> None:
            written.append(execute(self.tree, top({**exchange, **thinking.fields()})))
            exchange.update(System="", Prompt="", Response="")

        for turn in turns:
            if turn["role"] == "system":
                if exchange["Prompt"] or exchange["Response"]:
                    flush()
                exchange["System"] = turn["content"]
            elif turn["role"] == "user":
                if exchange["Response"]:
                    flush()
                exchange["Prompt"] = turn["content"]
            elif turn["role"] == "assistant":
                exchange["Response"] = turn["content"]
        last = Tree(self.source, _Cut().nodes(self.tree.nodes))
        written.append(execute(last, top({**exchange, **thinking.fields()}), bare=True))
        return "".join(written)


# ---------------------------------------------------------------- older templates


class _Cut:
    """Copies nodes up to the first .Response that an action writes; nothing after it stays.

    Within the action itself what follows .Response goes too; where that leaves a command of a pipeline with
    nothing, the action goes. Conditions are not looked at, as Ollama does not.
    """

    def __init__(self) -> None:
        self._found = False

    def nodes(self, nodes: list[Node]) -> list[Node]:
        kept: list[Node] = []
        for node in nodes:
            if self._found:
                break
            if isinstance(node, Output):
                pipeline = self._pipeline(node.pipeline)
                if pipeline is None:
                    continue
                node = Output(pipeline, node.position)
            elif isinstance(node, Branch):
                branch = copy.copy(node)
                branch.body = self.nodes(node.body)
                if node.otherwise is not None:
                    branch.otherwise = self.nodes(node.otherwise)
                node = branch
            kept.append(node)
        return kept

    def _pipeline(self, pipeline: Pipeline) -> Pipeline | None:
        commands = []
        for command in pipeline.commands:
            operands = [kept for operand in command.operands if (kept := self._operand(operand)) is not None]
            if not operands:
                return None
            commands.append(Command(operands, command.position))
        return Pipeline(commands, pipeline.variables, pipeline.declares, pipeline.position)

    def _operand(self, operand: Operand) -> Operand | None:
        if self._found:
            return None
        if isinstance(operand, Field) and "Response" in operand.names:
            self._found = True
        elif isinstance(operand, Pipeline):
            return self._pipeline(operand)
        return operand


def _collate(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """All system texts as one, and the messages with neighbours of one role, except tools', made one."""
    systems = [str(message.get("content") or "") for message in messages if message.get("role") == "system"]
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = {**message, "role": message.get("role") or "", "content": str(message.get("content") or "")}
        if turns and turns[-1]["role"] == turn["role"] != "tool":
            turns[-1]["content"] += "\n\n" + turn["content"]
        else:
            turns.append(turn)
    return "\n\n".join(systems), turns
