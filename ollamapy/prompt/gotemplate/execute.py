"""Runs a parsed Go template over data."""

from __future__ import annotations

from typing import Any

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.prompt.gotemplate.functions import FUNCTIONS, FunctionError, Record, show, truth
from ollamapy.prompt.gotemplate.parse import (
    Call,
    Command,
    Function,
    If,
    Leave,
    Literal,
    Node,
    Operand,
    Output,
    Pipeline,
    Text,
    Tree,
    Variable,
    With,
)

__all__ = ["Record", "execute"]

_MAX_CALLS = 100  # of templates within templates
_MAX_TEXT = 64 << 20  # characters of output
_NO_VALUE = "<no value>"


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(tree: Tree, data: Any) -> str:
    """The text of a template over data: a dict or a Record. Raises TemplateRenderError."""
    run = _Run(tree)
    run.nodes(tree.nodes, data, [("$", data)])
    return "".join(run.output)


class _Run:
    def __init__(self, tree: Tree) -> None:
        self._defines = tree.defines
        self._calls = 0
        self._size = 0
        self.output: list[str] = []

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > _MAX_TEXT:
            raise TemplateRenderError("the template writes too much text")
        self.output.append(text)

    def nodes(self, nodes: list[Node], dot: Any, scope: list[tuple[str, Any]]) -> None:
        """Run nodes; variables that they declare end with them."""
        mark = len(scope)
        for node in nodes:
            self._node(node, dot, scope)
        del scope[mark:]

    def _node(self, node: Node, dot: Any, scope: list[tuple[str, Any]]) -> None:
        if isinstance(node, Text):
            self._write(node.text)
        elif isinstance(node, Output):
            value = self._pipeline(node.pipeline, dot, scope)
            if not node.pipeline.variables:
                self._write(_NO_VALUE if value is None else show(value))
        elif isinstance(node, Leave):
            raise _Break if node.kind == "break" else _Continue
        elif isinstance(node, Call):
            self._call(node, dot, scope)
        else:
            mark = len(scope)
            if isinstance(node, (If, With)):
                pipeline = node.condition if isinstance(node, If) else node.value
                value = self._pipeline(pipeline, dot, scope)
                chosen = node.body if truth(value) else node.otherwise
                inner = value if isinstance(node, With) and truth(value) else dot
                self.nodes(chosen, inner, scope)
            else:
                self._range(node.value, node.body, node.otherwise, dot, scope)
            del scope[mark:]

    def _range(
        self,
        pipeline: Pipeline,
        body: list[Node],
        otherwise: list[Node],
        dot: Any,
        scope: list[tuple[str, Any]],
    ) -> None:
        names, declares = pipeline.variables, pipeline.declares
        value = self._pipeline(pipeline, dot, scope, bind=False)
        pairs: list[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            if len(names) > 1:
                raise _failure(pipeline.line, f"can't use {value} to iterate over more than one variable")
            pairs = [(i, i) for i in range(min(value, _MAX_TEXT))]
        elif value is None:
            pairs = []
        elif isinstance(value, Record) and isinstance(value.plain, dict):
            pairs = [(key, value.plain[key]) for key in sorted(value.plain)]
        else:
            raise _failure(pipeline.line, f"range can't iterate over {show(value)}")
        if not pairs:
            self.nodes(otherwise, dot, scope)
            return
        mark = len(scope)
        for key, item in pairs:
            values = [item] if len(names) == 1 else [key, item]
            for name, bound in zip(names, values, strict=False):
                self._bind(name, bound, declares, scope)
            try:
                self.nodes(body, item, scope)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del scope[mark:]

    def _call(self, node: Call, dot: Any, scope: list[tuple[str, Any]]) -> None:
        body = self._defines.get(node.name)
        if body is None:
            raise _failure(node.line, f'template "{node.name}" not defined')
        self._calls += 1
        if self._calls > _MAX_CALLS:
            raise _failure(node.line, "exceeded maximum template depth")
        value = None if node.argument is None else self._pipeline(node.argument, dot, scope)
        self.nodes(body, value, [("$", value)])
        self._calls -= 1

    # ---------------------------------------------------------------- values

    def _pipeline(self, pipeline: Pipeline, dot: Any, scope: list[tuple[str, Any]], bind: bool = True) -> Any:
        value: Any = None
        for i, command in enumerate(pipeline.commands):
            extra = [value] if i else []
            try:
                value = self._command(command, extra, pipeline.line, dot, scope)
            except FunctionError as error:
                raise _failure(pipeline.line, str(error)) from None
            except TypeError:
                raise _failure(pipeline.line, "wrong number of arguments") from None
        if bind:
            for name in pipeline.variables:
                self._bind(name, value, pipeline.declares, scope)
        return value

    def _bind(self, name: str, value: Any, declares: bool, scope: list[tuple[str, Any]]) -> None:
        if declares:
            scope.append((name, value))
            return
        for i in range(len(scope) - 1, -1, -1):
            if scope[i][0] == name:
                scope[i] = (name, value)
                return

    def _command(
        self, command: Command, extra: list[Any], line: int, dot: Any, scope: list[tuple[str, Any]]
    ) -> Any:
        first, *rest = command.operands
        if isinstance(first, Function):
            return self._function(first.name, rest, extra, line, dot, scope)
        if rest or extra:
            raise _failure(line, "can't give argument to non-function")
        if isinstance(first, Literal) and first.value is None:
            raise _failure(line, "nil is not a command")
        return self._value(first, line, dot, scope)

    def _function(
        self,
        name: str,
        operands: list[Operand],
        extra: list[Any],
        line: int,
        dot: Any,
        scope: list[tuple[str, Any]],
    ) -> Any:
        if name in ("and", "or"):
            if not operands and not extra:
                raise _failure(line, f"wrong number of args for {name}: want at least 1 got 0")
            value: Any = None
            for operand in operands:
                value = self._value(operand, line, dot, scope)
                if truth(value) == (name == "or"):
                    return value
            return extra[0] if extra else value
        arguments = [self._value(operand, line, dot, scope) for operand in operands]
        return FUNCTIONS[name](*arguments, *extra)

    def _value(self, operand: Operand, line: int, dot: Any, scope: list[tuple[str, Any]]) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Function):
            return self._function(operand.name, [], [], line, dot, scope)
        base = operand.base
        value = dot
        if isinstance(base, Variable):
            value = next(item for name, item in reversed(scope) if name == base.name)
        elif isinstance(base, Pipeline):
            value = self._pipeline(base, dot, scope)
        for name in operand.names:
            value = _field(value, name, line)
        return value


def _field(value: Any, name: str, line: int) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, Record):
        if name in value.fields:
            return value.fields[name]
        raise _failure(line, f"can't evaluate field {name}")
    if value is None:
        raise _failure(line, f"nil pointer evaluating interface {{}}.{name}")
    raise _failure(line, f"can't evaluate field {name} in type {type(value).__name__}")


def _failure(line: int, message: str) -> TemplateRenderError:
    return TemplateRenderError(f"template: :{line}: executing: {message}")
