"""Runs a parsed Go template over data, with the rules and the messages of text/template.

A run is bounded: in steps (nodes visited, items looped over, characters written or made), in what it writes
and in how deep templates call each other.
"""

from __future__ import annotations

from typing import Any

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.prompt.gotemplate.functions import FUNCTIONS, Builtin, FunctionError, Parameter, printable
from ollamapy.prompt.gotemplate.lex import quoted
from ollamapy.prompt.gotemplate.nodes import (
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Leave,
    Node,
    Operand,
    Output,
    Pipeline,
    Text,
    Tree,
    Variable,
)
from ollamapy.prompt.gotemplate.printing import sprint
from ollamapy.prompt.gotemplate.values import (
    ANY,
    NIL,
    Map,
    Method,
    Pairs,
    Pointer,
    Slice,
    Struct,
    content,
    element,
    indirect,
    kind_of,
    string_bytes,
    truth,
    type_of,
    valid_text,
    zero,
)

_MAX_CALLS = 200  # of templates within templates: Go allows more, Python's stack does not
_MAX_STEPS = 500_000  # a second or two; the templates of families take about 100 per message
_MAX_TEXT = 64 << 20  # characters made, be they written or only computed

Scope = list[tuple[str, Any]]


class _Missing:
    """In place of a pipeline's value for a command that has none before it."""


_MISSING = _Missing()


class _Leave(Exception):
    """break or continue, on its way to its range."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def execute(tree: Tree, data: Any, bare: bool = False) -> str:
    """The text of a template over data.

    bare: without the templates it defines, without Ollama's functions, and a missing key is no value instead
    of a nil. Raises TemplateRenderError.
    """
    run = _Run(tree, bare)
    try:
        run.nodes(tree.nodes, data, [("$", data)])
    except RecursionError:
        raise TemplateRenderError("template: the template or its data nests too deeply") from None
    return valid_text("".join(run.output))


class _Run:
    def __init__(self, tree: Tree, bare: bool) -> None:
        self._source = tree.source
        self._defines = {} if bare else {**tree.defines, "": tree.nodes}
        self._bare = bare
        self._name = ""
        self._calls = 0
        self._steps = 0
        self._made = 0
        self.output: list[str] = []

    # ---------------------------------------------------------------- bounds and messages

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise TemplateRenderError("template: the template takes too many steps")

    def _charge(self, characters: int) -> None:
        self._made += characters
        if self._made > _MAX_TEXT:
            raise TemplateRenderError("template: the template makes too much text")

    def _write(self, text: str) -> None:
        self._charge(len(text))
        self.output.append(text)

    def _failure(self, node: Any, message: str) -> TemplateRenderError:
        """An error at a node, placed as Go places it: line and byte."""
        before = self._source[: node.position]
        line = before.count("\n") + 1
        byte = len(string_bytes(before[before.rfind("\n") + 1 :]))
        return TemplateRenderError(
            f"template: :{line}:{byte}: executing {quoted(self._name)} at <{node}>: {message}"
        )

    # ---------------------------------------------------------------- nodes

    def nodes(self, nodes: list[Node], dot: Any, scope: Scope) -> None:
        """Run nodes; variables that they declare end with the block around them, not here."""
        for node in nodes:
            self._step()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Output):
                value = self._pipeline(node.pipeline, dot, scope)
                if not node.pipeline.variables:
                    self._print(node, value)
            elif isinstance(node, Branch):
                mark = len(scope)
                if node.kind == "range":
                    self._range(node, dot, scope)
                else:
                    self._choose(node, dot, scope)
                del scope[mark:]
            elif isinstance(node, Leave):
                raise _Leave(node.kind)
            else:
                self._call(node, dot, scope)

    def _print(self, node: Output, value: Any) -> None:
        if isinstance(value, str):
            self._write(value)
            return
        value = printable(value)
        if isinstance(value, Pairs):
            raise self._failure(node, f"can't print {node} of type {value.type.name}")
        self.output.append(sprint([value], self._charge))

    def _choose(self, node: Branch, dot: Any, scope: Scope) -> None:
        value = self._pipeline(node.pipeline, dot, scope)
        if truth(value):
            self.nodes(node.body, value if node.kind == "with" else dot, scope)
        elif node.otherwise is not None:
            self.nodes(node.otherwise, dot, scope)

    def _range(self, node: Branch, dot: Any, scope: Scope) -> None:
        pipeline = node.pipeline
        names, declares = pipeline.variables, pipeline.declares
        value, _ = indirect(self._pipeline(pipeline, dot, scope))
        items = self._items(node, value)
        ran = False
        mark = len(scope)
        for key, item in items:
            self._step()
            ran = True
            if names and declares:
                scope[mark - 1] = (scope[mark - 1][0], item)
                if len(names) > 1:
                    scope[mark - 2] = (scope[mark - 2][0], key)
            elif names:
                self._assign(pipeline, names[-1], item, scope)
                if len(names) > 1:
                    self._assign(pipeline, names[0], key, scope)
            try:
                self.nodes(node.body, item, scope)
            except _Leave as leave:
                if leave.kind == "break":
                    return
            finally:
                del scope[mark:]
        if not ran and node.otherwise is not None:
            self.nodes(node.otherwise, dot, scope)

    def _items(self, node: Branch, value: Any) -> Any:
        """Pairs that range walks: what goes to its two variables, of which a single one gets the second."""
        two = len(node.pipeline.variables) > 1
        if isinstance(value, Slice):
            kind = value.type.elem
            return ((i, element(kind, item)) for i, item in enumerate(value.items or ()))
        if isinstance(value, Map):
            pairs = value.items or {}
            self._charge(16 * len(pairs))  # they are sorted, be they walked or not
            return ((key, element(value.type.elem, pairs[key])) for key in sorted(pairs))
        if isinstance(value, Pairs):
            return value.pairs if two else ((None, key) for key, _ in value.pairs)
        if value is None or value is NIL:
            return ()
        if isinstance(value, int) and not isinstance(value, bool):
            if two:
                message = f"can't use {int(value)} to iterate over more than one variable"
                raise self._failure(node.pipeline, message)
            kind_class = type(value)
            return ((None, kind_class(i)) for i in range(value))
        shown = sprint([value], self._charge)
        raise self._failure(node.pipeline, f"range can't iterate over {shown}")

    def _call(self, node: Call, dot: Any, scope: Scope) -> None:
        body = self._defines.get(node.name)
        if body is None:
            raise self._failure(node, f"template {quoted(node.name)} not defined")
        if self._calls >= _MAX_CALLS:
            raise self._failure(node, f"exceeded maximum template depth ({_MAX_CALLS})")
        value = None if node.argument is None else self._pipeline(node.argument, dot, scope)
        self._calls += 1
        outer, self._name = self._name, node.name
        self.nodes(body, value, [("$", value)])
        self._name = outer
        self._calls -= 1

    # ---------------------------------------------------------------- pipelines

    def _pipeline(self, pipeline: Pipeline, dot: Any, scope: Scope) -> Any:
        value: Any = _MISSING
        for command in pipeline.commands:
            value = content(self._command(command, value, dot, scope))
        for name in pipeline.variables:
            if pipeline.declares:
                scope.append((name, value))
            else:
                self._assign(pipeline, name, value, scope)
        return value

    def _assign(self, node: Pipeline, name: str, value: Any, scope: Scope) -> None:
        for i in range(len(scope) - 1, -1, -1):
            if scope[i][0] == name:
                scope[i] = (name, value)
                return
        raise self._failure(node.commands[-1], f"undefined variable: {name}")

    def _command(self, command: Command, final: Any, dot: Any, scope: Scope) -> Any:
        self._step()
        first, rest = command.operands[0], command.operands[1:]
        if isinstance(first, Function):
            return self._function(first, command, rest, final, dot, scope)
        if isinstance(first, (Field, Variable, Chain)):
            return self._fields(first, rest, final, dot, scope)
        if rest or final is not _MISSING:
            raise self._failure(first, f"can't give argument to non-function {first}")
        if isinstance(first, Constant) and first.kind == "nil":
            raise self._failure(first, "nil is not a command")
        return self._operand(first, dot, scope)

    def _operand(self, operand: Operand, dot: Any, scope: Scope) -> Any:
        """The value of an operand that is no command of its own."""
        if isinstance(operand, Constant):
            if operand.kind == "huge":
                raise self._failure(operand, f"{operand.text} overflows int")
            return operand.value
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Pipeline):
            return self._pipeline(operand, dot, scope)
        if isinstance(operand, Function):
            return self._function(operand, operand, [], _MISSING, dot, scope)
        return self._fields(operand, [], _MISSING, dot, scope)

    def _argument(self, operand: Operand, wanted: Parameter, dot: Any, scope: Scope) -> Any:
        """An argument of a function that wants it so."""
        self._step()
        if isinstance(operand, Constant):
            if operand.kind == "nil":
                if wanted == "string":
                    raise self._failure(operand, "cannot assign nil to string")
                return None
            if wanted == "string" and operand.kind != "string":
                raise self._failure(operand, f"expected string; found {operand}")
        return self._fitting(operand, self._operand(operand, dot, scope), wanted)

    def _fitting(self, node: Any, value: Any, wanted: Parameter) -> Any:
        if wanted == "string" and not isinstance(value, str):
            if value is None:
                raise self._failure(node, "invalid value; expected string")
            raise self._failure(node, f"wrong type for value; expected string; got {type_of(value).name}")
        return value

    def _function(
        self, node: Function, command: Any, operands: list[Operand], final: Any, dot: Any, scope: Scope
    ) -> Any:
        name = node.name
        builtin = FUNCTIONS[name]
        if builtin.own and self._bare:
            raise self._failure(node, f"{quoted(name)} is not a defined function")
        count = len(operands) + (final is not _MISSING)
        self._check_count(node, builtin, count, len(operands))
        if name in ("and", "or"):
            value: Any = None
            for operand in operands:
                value = self._argument(operand, "value", dot, scope)
                if truth(value) == (name == "or"):
                    return value
            return value if final is _MISSING else final
        wanted = [*builtin.fixed, *[builtin.variadic or "any"] * (count - len(builtin.fixed))]
        arguments = [
            self._argument(operand, kind, dot, scope) for operand, kind in zip(operands, wanted, strict=False)
        ]
        if final is not _MISSING:
            arguments.append(self._fitting(node, final, wanted[-1]))
        try:
            result = builtin.call(arguments, self._charge)
        except FunctionError as error:
            raise self._failure(command, f"error calling {name}: {error}") from None
        if isinstance(result, str):
            self._charge(len(result))
        return result

    def _check_count(self, node: Function, builtin: Builtin, count: int, given: int) -> None:
        fixed = len(builtin.fixed)
        if builtin.variadic is not None:
            if count < fixed:
                raise self._failure(
                    node, f"wrong number of args for {node.name}: want at least {fixed} got {given}"
                )
        elif count != fixed:
            raise self._failure(node, f"wrong number of args for {node.name}: want {fixed} got {count}")

    # ---------------------------------------------------------------- fields

    def _fields(
        self, node: Field | Variable | Chain, rest: list[Operand], final: Any, dot: Any, scope: Scope
    ) -> Any:
        value = dot
        if isinstance(node, Variable):
            for name, found in reversed(scope):
                if name == node.name:
                    value = found
                    break
            else:
                raise self._failure(node, f"undefined variable: {node.name}")
            if not node.names and (rest or final is not _MISSING):
                raise self._failure(node, f"can't give argument to non-function {node}")
        elif isinstance(node, Chain):
            if isinstance(node.base, Constant):
                raise self._failure(node, f"indirection through explicit nil in {node}")
            value = self._operand(node.base, dot, scope)
        extra = bool(rest) or final is not _MISSING
        owner: Any = None
        last = len(node.names) - 1
        for i, name in enumerate(node.names):
            self._step()
            held = ANY.name if i and _holds_any(owner) else ""
            owner = value
            arguments = len(rest) + (final is not _MISSING) if i == last else 0
            value = self._field(node, value, name, arguments, held)
        if extra:
            for operand in rest:
                self._argument(operand, "value", dot, scope)
        return value

    def _field(self, node: Any, receiver: Any, name: str, arguments: int, held: str) -> Any:
        """A field, key or method of a value. arguments: how many are given to it. held: the type of the place
        where the value lay, if that was not its own."""
        if receiver is None:
            return None
        typ = held or type_of(receiver).name
        value, missing = indirect(receiver)
        if value is NIL:
            raise self._failure(node, f"nil pointer evaluating {typ}.{name}")
        method = _method(value, name)
        if method is not None:
            return self._invoke(node, name, method, value, arguments)
        if isinstance(value, Struct):
            if name in value.type.fields:
                if arguments:
                    raise self._failure(node, f"{name} has arguments but cannot be invoked as function")
                return element(value.type.fields[name].type, value.values[name])
        elif isinstance(value, Map):
            if arguments:
                raise self._failure(node, f"{name} is not a method but has arguments")
            items, kind = value.items or {}, value.type.elem
            assert kind is not None
            if name in items:
                return element(kind, items[name])
            return None if self._bare else zero(kind)
        elif isinstance(value, Pointer) and missing:
            target = value.type.elem
            if target is None or target.kind != "struct" or name in target.fields:
                raise self._failure(node, f"nil pointer evaluating {typ}.{name}")
        raise self._failure(node, f"can't evaluate field {name} in type {typ}")

    def _invoke(self, node: Any, name: str, method: Method, value: Any, arguments: int) -> Any:
        if arguments != method.parameters:
            wrong = f"wrong number of args for {name}: want {method.parameters} got {arguments}"
            raise self._failure(node, wrong)
        if method.failure:
            raise self._failure(node, method.failure)
        result = method.call(value)
        if isinstance(result, str):
            self._charge(len(result))
        return result


def _holds_any(value: Any) -> bool:
    return isinstance(value, Map) and value.type.elem is ANY


def _method(value: Any, name: str) -> Method | None:
    """The method of a value; a struct that is behind a pointer or in a slice has its pointer's too."""
    if kind_of(value) in ("bool", "int", "uint8", "float64", "complex128", "string"):
        return None
    kind = type_of(value)
    if isinstance(value, Pointer) and kind.elem is not None:  # nil: methods are found, and fail
        kind = kind.elem
    if name in kind.methods:
        return kind.methods[name]
    return kind.pointer_methods.get(name)
