"""Tool calls that a request insists on: a grammar makes the model write them, and this reads them.

The calls are JSON whatever the model's own format is, so that every model can be made to call; a thought may come
before them where the model's own parser knows its tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ollamapy.engine.constrained_grammar import prepared_rule
from ollamapy.prompt.parsers.base import Parser, Setup
from ollamapy.prompt.parsers.generic import GenericParser
from ollamapy.prompt.template_tags import Tags
from ollamapy.types import RequestError

_MOST_CALLS = 16


def forced_parser(parser: Parser, setup: Setup) -> Parser:
    """A parser of forced calls, with the thoughts of the model's own."""
    return _ForcedParser(parser, setup)


class _ForcedParser(GenericParser):
    def __init__(self, own: Parser, setup: Setup) -> None:
        think = setup.think if own.thought is None else True
        super().__init__(Setup(setup.tools, think, setup.last), Tags(own.thought))
        self.tools = own.tools
        self._own = own
        self.in_thought = own.in_thought

    def follow(self, prompt: str) -> None:
        self._own.follow(prompt)
        self.in_thought = self._own.in_thought


def forced_grammar(tools: Sequence[Mapping[str, Any]], parallel: bool) -> str:
    """A Lark grammar of one call, or with parallel of several, of any of tools. Raises RequestError."""
    names, rules = [], []
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError("a tool needs a function with a name")
        parameters = function.get("parameters") or {"properties": {}}
        if not isinstance(parameters, Mapping):
            raise RequestError(f"the parameters of {function['name']} are no JSON schema")
        schema = prepared_rule({**parameters, "type": "object"}, function.get("strict") is True)
        head = '{"name": ' + json.dumps(function["name"]) + ', "arguments": '
        rules.append(f'call_{i}: {json.dumps(head)} arguments_{i} "}}"')
        rules.append(f"arguments_{i}: %json {json.dumps(schema)}")
        names.append(f"call_{i}")
    more = f' ("\\n" call){{0,{_MOST_CALLS - 1}}}' if parallel else ""
    return "\n".join([f"start: call{more}", "call: " + " | ".join(names), *rules])
