"""The syntax tree of a Go template. str() of a node is how Go's messages quote it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ollamapy.prompt.gotemplate.lex import quoted


@dataclass(slots=True, eq=False)
class Text:
    text: str
    position: int


@dataclass(slots=True, eq=False)
class Constant:
    """A bool, string or number (of which `kind` says what it may be), or nil. text is how it is written."""

    value: Any
    text: str
    position: int
    kind: str  # "bool", "string", "int", "float", "complex", "nil", "huge": an integer beyond int

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True, eq=False)
class Dot:
    position: int

    def __str__(self) -> str:
        return "."


@dataclass(slots=True, eq=False)
class Field:
    """.A.B of dot."""

    names: list[str]
    position: int

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(slots=True, eq=False)
class Variable:
    """$x.A.B; name has its $."""

    name: str
    names: list[str]
    position: int

    def __str__(self) -> str:
        return ".".join([self.name, *self.names])


@dataclass(slots=True, eq=False)
class Chain:
    """(pipeline).A.B, or of a function or nil."""

    base: Operand
    names: list[str]
    position: int

    def __str__(self) -> str:
        base = f"({self.base})" if isinstance(self.base, Pipeline) else str(self.base)
        return base + "".join(f".{name}" for name in self.names)


@dataclass(slots=True, eq=False)
class Function:
    name: str
    position: int

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True, eq=False)
class Command:
    """A function or value with its arguments."""

    operands: list[Operand]
    position: int

    def __str__(self) -> str:
        return " ".join(f"({o})" if isinstance(o, Pipeline) else str(o) for o in self.operands)


@dataclass(slots=True, eq=False)
class Pipeline:
    """variables are the names that take the value, declares: by := and not by =."""

    commands: list[Command]
    variables: list[str]
    declares: bool
    position: int

    def __str__(self) -> str:
        names = ", ".join(self.variables) + (" := " if self.declares else " = ") if self.variables else ""
        return names + " | ".join(str(command) for command in self.commands)


Operand = Constant | Dot | Field | Variable | Chain | Function | Pipeline


@dataclass(slots=True, eq=False)
class Output:
    pipeline: Pipeline
    position: int

    def __str__(self) -> str:
        return f"{{{{{self.pipeline}}}}}"


@dataclass(slots=True, eq=False)
class Branch:
    """if, with and range. otherwise None: no else."""

    kind: str
    pipeline: Pipeline
    body: list[Node]
    otherwise: list[Node] | None
    position: int


@dataclass(slots=True, eq=False)
class Leave:
    """break or continue."""

    kind: str
    position: int


@dataclass(slots=True, eq=False)
class Call:
    """{{ template }} and {{ block }}."""

    name: str
    argument: Pipeline | None
    position: int

    def __str__(self) -> str:
        argument = "" if self.argument is None else f" {self.argument}"
        return f"{{{{template {quoted(self.name)}{argument}}}}}"


Node = Text | Output | Branch | Leave | Call


@dataclass(slots=True, eq=False)
class Tree:
    """A parsed template and the ones it defines, by name; its own is the empty one."""

    source: str
    nodes: list[Node]
    defines: dict[str, list[Node]] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Every field and variable that Ollama takes for read, in lower case."""
        found: set[str] = set()
        for nodes in (self.nodes, *self.defines.values()):
            for node in nodes:
                found.update(name.lower() for name in _identifiers(node))
        return found


def _identifiers(node: Node) -> Iterator[str]:
    if isinstance(node, Output):
        yield from pipeline_identifiers(node.pipeline)
    elif isinstance(node, Call) and node.argument is not None:
        yield from pipeline_identifiers(node.argument)
    elif isinstance(node, Branch):
        yield from pipeline_identifiers(node.pipeline)
        for inner in (*node.body, *(node.otherwise or ())):
            yield from _identifiers(inner)


def pipeline_identifiers(pipeline: Pipeline) -> Iterator[str]:
    """The names of the fields and variables in a pipeline; those behind a parenthesis do not count."""
    for command in pipeline.commands:
        for operand in command.operands:
            if isinstance(operand, Field):
                yield from operand.names
            elif isinstance(operand, Variable):
                yield from (operand.name, *operand.names)
            elif isinstance(operand, Pipeline):
                yield from pipeline_identifiers(operand)


def is_blank(nodes: list[Node]) -> bool:
    """Whether a template writes nothing but blanks, and so may be defined again."""
    return all(isinstance(node, Text) and not node.text.strip() for node in nodes)
