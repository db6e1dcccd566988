"""What a template tells about the answers of its model: the tags around thoughts and before tool calls.

In a Go template both are found the way Ollama finds them, so that it means the same here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ollamapy.prompt.gotemplate import Tree
from ollamapy.prompt.gotemplate.nodes import Branch, Call, Field, Node, Output, Pipeline, Text


@dataclass(frozen=True)
class CallTag:
    """How a template writes tool calls."""

    tag: str = "{"  # what a call begins with; "{" and "[" when it is nothing but JSON
    end: str = ""  # what stands behind a call's JSON


@dataclass(frozen=True)
class Tags:
    """Everything a template says about its model's answers."""

    thinking: tuple[str, str] | None = None
    call: CallTag = field(default_factory=CallTag)


_JINJA_THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_JINJA_CALLS = (
    CallTag("<tool_call>", "</tool_call>"),
    CallTag("[TOOL_CALLS]"),
    CallTag("<|tool_call|>"),
    CallTag("<|python_tag|>"),
)


def jinja_tags(source: str) -> Tags:
    """The tags that a Jinja template writes out; its calls are JSON without a tag where there is none."""
    thinking = next((tags for tags in _JINJA_THINKING if all(tag in source for tag in tags)), None)
    return Tags(thinking, next((call for call in _JINJA_CALLS if call.tag in source), CallTag()))


def thinking_tags(tree: Tree) -> tuple[str, str] | None:
    """The tags around a thought.

    They are the texts that begin and end the innermost list of nodes in which a message's .Thinking is used,
    inside of a range over .Messages; the last such place that has them counts.
    """
    opening = closing = ""
    for nodes in _thinking_places(tree.nodes, None):
        if isinstance(nodes[0], Text):
            opening = nodes[0].text.strip()
        if isinstance(nodes[-1], Text):
            closing = nodes[-1].text.strip()
    return (opening, closing) if opening and closing else None


def _thinking_places(nodes: list[Node], over: Pipeline | None) -> Iterator[list[Node]]:
    """The lists of nodes around each use of .Thinking; over is what the innermost range goes over."""
    for node in nodes:
        pipeline = _pipeline(node)
        within = pipeline if isinstance(node, Branch) and node.kind == "range" else over
        if pipeline is not None and within is not None and _uses(within, "Messages"):
            yield from [nodes] * sum(field.names[0] == "Thinking" for field in _fields(pipeline))
        if isinstance(node, Branch):
            yield from _thinking_places(node.body, within)
            yield from _thinking_places(node.otherwise or [], within)


def _pipeline(node: Node) -> Pipeline | None:
    if isinstance(node, (Branch, Output)):
        return node.pipeline
    return node.argument if isinstance(node, Call) else None


def _fields(pipeline: Pipeline) -> Iterator[Field]:
    """The fields of dot in a pipeline, those in parentheses included."""
    for command in pipeline.commands:
        for operand in command.operands:
            if isinstance(operand, Field):
                yield operand
            elif isinstance(operand, Pipeline):
                yield from _fields(operand)


def _uses(pipeline: Pipeline, name: str) -> bool:
    return any(field.names[0] == name for field in _fields(pipeline))


def call_tag(tree: Tree) -> CallTag:
    """How calls begin and end: the text around the values in the first `if` about .ToolCalls."""
    block = _calls_block(tree.nodes)
    if block is None:
        return CallTag()
    text, _ = _first_text(block.body)
    tag = (text or "").replace("\r\n", "\n").partition("{")[0].strip() or "{"
    behind = "".join(_texts_behind(block.body))
    return CallTag(tag, behind.replace("\r\n", "\n").rpartition("}")[2].strip())


def _calls_block(nodes: list[Node]) -> Branch | None:
    for node in nodes:
        if isinstance(node, Branch) and node.kind == "if":
            operands = [operand for command in node.pipeline.commands for operand in command.operands]
            fields = [operand for operand in operands if isinstance(operand, Field)]
            if any("ToolCalls" in field.names for field in fields):
                return node
        if isinstance(node, Branch):
            found = _calls_block(node.body) or _calls_block(node.otherwise or [])
            if found is not None:
                return found
    return None


def _first_text(nodes: list[Node]) -> tuple[str | None, bool]:
    """The first text that is not blank, and whether the search is over: a value ends it."""
    for node in nodes:
        if isinstance(node, Text):
            if node.text.strip():
                return node.text, True
        elif isinstance(node, Branch):
            text, _ = _first_text(node.body)
            if text is None:
                text, _ = _first_text(node.otherwise or [])
            return text, True
        elif isinstance(node, Output):
            return None, True
    return None, False


def _texts_behind(nodes: list[Node]) -> list[str]:
    """The texts after the last value."""
    texts: list[str] = []
    for node in nodes:
        if isinstance(node, Text):
            texts.append(node.text)
        elif isinstance(node, Branch):
            texts = _texts_behind(node.body) if _has_value(node.body) else texts
        elif _is_value(node):
            texts = []
    return texts


def _is_value(node: Node) -> bool:
    return isinstance(node, Call) or (isinstance(node, Output) and not node.pipeline.variables)


def _has_value(nodes: list[Node]) -> bool:
    return any(
        _is_value(node)
        or (isinstance(node, Branch) and (_has_value(node.body) or _has_value(node.otherwise or [])))
        for node in nodes
    )
