"""A stored TEMPLATE over a conversation, as Ollama runs it.

A template that reads .Messages gets the conversation as it is. An older one is run once per exchange with
.System, .Prompt and .Response; the last exchange ends where its answer begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ollamapy.prompt.gotemplate import Record, Tree, execute, parse
from ollamapy.prompt.gotemplate.functions import to_json
from ollamapy.prompt.gotemplate.parse import If, Node, Output, Pipeline, Range, With, pipeline_names

_APPENDED = "{{ .Response }}"  # what an older template without an answer's place gets

Message = Mapping[str, Any]


@lru_cache(maxsize=64)
def _parse(source: str) -> Tree:
    tree = parse(source)
    names = tree.field_names()
    return tree if names & {"Messages", "Response"} else parse(source + _APPENDED)


class GoTemplate:
    """A TEMPLATE. Raises TemplateSyntaxError for a text that is none."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._tree = _parse(source)
        self._names = self._tree.field_names()

    @property
    def tree(self) -> Tree:
        """The parsed template."""
        return self._tree

    @property
    def capabilities(self) -> set[str]:
        """What the template has places for: "tools", "insert", "thinking"."""
        places = {"Tools": "tools", "Suffix": "insert", "Thinking": "thinking"}
        return {capability for name, capability in places.items() if name in self._names}

    @property
    def has_tool_round_trip(self) -> bool:
        """Whether calls and their results have places, not only the offer of tools."""
        results = ('"tool"' in self.source) or ("tool_response" in self.source) or ("ToolName" in self._names)
        return {"Tools", "ToolCalls"} <= self._names and results

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | str | None = None,
    ) -> str:
        """The prompt for the next answer. Raises TemplateRenderError."""
        thinking = {
            "Think": bool(think),
            "ThinkLevel": think if isinstance(think, str) else "",
            "IsThinkSet": think is not None,
        }
        system, turns = _collate(messages)
        if "Messages" in self._names:
            data = {
                "System": system,
                "Messages": [_message(turn) for turn in turns],
                "Tools": None if tools is None else [_tool(tool) for tool in tools],
                "Response": "",
                **thinking,
            }
            return execute(self._tree, data)
        return self._render_exchanges(turns, thinking)

    def render_insert(self, prompt: str, suffix: str) -> str:
        """The prompt for what goes between two texts."""
        data = {"Prompt": prompt, "Suffix": suffix, "Response": ""}
        return execute(self._tree, data)

    def _render_exchanges(self, turns: list[dict[str, Any]], thinking: dict[str, Any]) -> str:
        written: list[str] = []
        exchange = {"System": "", "Prompt": "", "Response": ""}

        def flush() -> None:
            written.append(execute(self._tree, {**exchange, **thinking}))
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
        last = Tree(_until_response(self._tree.nodes)[0], self._tree.defines)
        written.append(execute(last, {**exchange, **thinking}))
        return "".join(written)


def _until_response(nodes: list[Node]) -> tuple[list[Node], bool]:
    """The nodes up to the first that writes .Response, and whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Output):
            kept.append(node)
            if "Response" in pipeline_names(node.pipeline):
                return kept, True
        elif isinstance(node, (If, With, Range)):
            cut, found = _cut_block(node)
            kept.append(cut)
            if found:
                return kept, True
        else:
            kept.append(node)
    return kept, False


def _cut_block(node: If | With | Range) -> tuple[Node, bool]:
    pipeline: Pipeline = node.condition if isinstance(node, If) else node.value
    body, in_body = _until_response(node.body)
    otherwise, in_otherwise = _until_response(node.otherwise)
    return type(node)(pipeline, body, otherwise), in_body or in_otherwise


def _collate(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """All system texts as one, and the messages with neighbours of one role, except tools', made one."""
    systems = [str(message.get("content") or "") for message in messages if message.get("role") == "system"]
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = {**message, "content": str(message.get("content") or "")}
        if turns and turns[-1].get("role") == turn.get("role") != "tool":
            turns[-1]["content"] += "\n\n" + turn["content"]
        else:
            turns.append(turn)
    return "\n\n".join(systems), turns


def _message(turn: Mapping[str, Any]) -> Record:
    fields = {
        "Role": turn.get("role", ""),
        "Content": turn.get("content", ""),
        "Thinking": turn.get("thinking", ""),
        "Images": list(turn.get("images", ())),
        "ToolCalls": [_call(call, i) for i, call in enumerate(turn.get("tool_calls", ()))],
        "ToolName": turn.get("tool_name", ""),
        "ToolCallID": turn.get("tool_call_id", ""),
    }
    return Record(fields, plain=[(name, None if value == [] else value) for name, value in fields.items()])


def _floats(value: Any) -> Any:
    """JSON as Go decodes it: every number is a float64."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _call(call: Mapping[str, Any], index: int) -> Record:
    function = call.get("function", {})
    arguments = _floats(function.get("arguments", {}))
    fields = {
        "Index": index,
        "Name": function.get("name", ""),
        "Arguments": Record(dict(arguments), plain=arguments, text=to_json(arguments)),
    }
    shown = {"name": fields["Name"], "arguments": arguments}
    inner = Record(fields, plain=shown)
    return Record({"ID": call.get("id", ""), "Function": inner}, plain={"function": shown})


def _tool(tool: Mapping[str, Any]) -> Record:
    """A tool prints as the JSON that was sent; its fields have Go's names."""
    function = tool.get("function", {})
    parameters = function.get("parameters", {})
    inner = {
        "Name": function.get("name", ""),
        "Description": function.get("description", ""),
        "Parameters": Record(
            {
                "Type": parameters.get("type", ""),
                "Required": parameters.get("required", []),
                "Properties": parameters.get("properties", {}),
            },
            plain=parameters,
            text=to_json(parameters),
        ),
    }
    return Record(
        {"Type": tool.get("type", ""), "Function": Record(inner, plain=function, text=to_json(function))},
        plain=tool,
        text=to_json(tool),
    )
