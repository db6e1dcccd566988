"""The syntax tree of a Go template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ollamapy.prompt.gotemplate.functions import FUNCTIONS
from ollamapy.prompt.gotemplate.lex import Token, fail, tokens, unquote

_MAX_DEPTH = 200  # of nested blocks and parentheses


@dataclass(slots=True)
class Text:
    text: str


@dataclass(slots=True)
class Literal:
    """A constant. text is how the template writes it."""

    value: str | int | float | bool | None
    text: str


@dataclass(slots=True)
class Field:
    """.A.B of dot (base None), of a variable, or of a parenthesized pipeline. No names: the base itself."""

    base: Variable | Pipeline | None
    names: list[str]


@dataclass(slots=True)
class Variable:
    name: str


@dataclass(slots=True)
class Function:
    name: str


Operand = Literal | Field | Function


@dataclass(slots=True)
class Command:
    """A function or value with its arguments."""

    operands: list[Operand]


@dataclass(slots=True)
class Pipeline:
    commands: list[Command]
    variables: list[str]  # names that take the value
    declares: bool  # := and not =
    line: int


@dataclass(slots=True)
class Output:
    pipeline: Pipeline


@dataclass(slots=True)
class If:
    condition: Pipeline
    body: list[Node]
    otherwise: list[Node]


@dataclass(slots=True)
class With:
    value: Pipeline
    body: list[Node]
    otherwise: list[Node]


@dataclass(slots=True)
class Range:
    value: Pipeline
    body: list[Node]
    otherwise: list[Node]


@dataclass(slots=True)
class Leave:
    """break or continue."""

    kind: str


@dataclass(slots=True)
class Call:
    """{{ template }} and {{ block }}."""

    name: str
    argument: Pipeline | None
    line: int


Node = Text | Output | If | With | Range | Leave | Call


@dataclass(slots=True)
class Tree:
    """A parsed template and the ones it defines."""

    nodes: list[Node]
    defines: dict[str, list[Node]] = field(default_factory=dict)

    def field_names(self) -> set[str]:
        """The name of every field that the template reads, of whatever value."""
        return {name for nodes in (self.nodes, *self.defines.values()) for name in _names(nodes)}


def parse(source: str) -> Tree:
    """Raises TemplateSyntaxError, worded as Go words it."""
    return _Parser(source).template()


def _names(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Output):
            yield from pipeline_names(node.pipeline)
        elif isinstance(node, (If, With, Range)):
            yield from pipeline_names(node.condition if isinstance(node, If) else node.value)
            yield from _names(node.body)
            yield from _names(node.otherwise)
        elif isinstance(node, Call) and node.argument is not None:
            yield from pipeline_names(node.argument)


def pipeline_names(pipeline: Pipeline) -> Iterator[str]:
    """The fields that a pipeline reads."""
    for command in pipeline.commands:
        for operand in command.operands:
            if isinstance(operand, Field):
                yield from operand.names
                if isinstance(operand.base, Pipeline):
                    yield from pipeline_names(operand.base)


class _Parser:
    def __init__(self, source: str) -> None:
        self._tokens = list(tokens(source))
        self._last_line = source.count("\n") + 1
        self._next = 0
        self._scopes: list[str] = ["$"]
        self._loops = 0
        self._depth = 0
        self._tree = Tree([])

    # ---------------------------------------------------------------- tokens

    def _peek(self) -> Token | None:
        """The next token that is no blank."""
        while self._next < len(self._tokens) and self._tokens[self._next].kind == "space":
            self._next += 1
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise fail(self._last_line, "unexpected EOF")
        self._next += 1
        return token

    def _expect(self, kind: str, where: str) -> Token:
        token = self._take()
        if token.kind != kind:
            raise self._unexpected(token, where)
        return token

    def _unexpected(self, token: Token, where: str) -> Exception:
        shown = f"<{token.text}>" if token.kind in ("dot", "keyword") else f'"{token.text}"'
        return fail(token.line, f"unexpected {shown} in {where}")

    # ---------------------------------------------------------------- blocks

    def template(self) -> Tree:
        nodes, ended = self._block(())
        assert ended is None
        self._tree.nodes = nodes
        return self._tree

    def _block(self, stops: tuple[str, ...]) -> tuple[list[Node], Token | None]:
        """Nodes up to an action with one of the keywords, which is taken up to its keyword."""
        nodes: list[Node] = []
        while self._next < len(self._tokens):
            token = self._tokens[self._next]
            self._next += 1
            if token.kind == "text":
                nodes.append(Text(token.text))
                continue
            keyword = self._peek()
            if keyword is not None and keyword.kind == "keyword":
                if keyword.text in stops:
                    return nodes, self._take()
                if keyword.text in ("end", "else"):
                    raise fail(keyword.line, f"unexpected {{{{{keyword.text}}}}}")
                if keyword.text != "nil":
                    node = self._statement(self._take())
                    nodes += [] if node is None else [node]
                    continue
            nodes.append(Output(self._pipeline("command")))
            self._expect("close", "command")
        if stops:
            raise fail(self._last_line, "unexpected EOF")
        return nodes, None

    def _statement(self, keyword: Token) -> Node | None:
        kind = keyword.text
        if kind in ("if", "with", "range"):
            return self._control(keyword)
        if kind in ("break", "continue"):
            self._expect("close", f"{{{{{kind}}}}}")
            if not self._loops:
                raise fail(keyword.line, f"{{{{{kind}}}}} outside {{{{range}}}}")
            return Leave(kind)
        if kind == "define" and self._depth:
            raise self._unexpected(keyword, "command")
        name = unquote(self._expect("string", f"{kind} clause"))
        if kind == "template":
            following = self._peek()
            argument = None
            if following is not None and following.kind != "close":
                argument = self._pipeline("template clause")
            self._expect("close", "template clause")
            return Call(name, argument, keyword.line)
        argument = self._pipeline("block clause") if kind == "block" else None
        self._expect("close", f"{kind} clause")
        outer, self._scopes = self._scopes, ["$"]
        loops, self._loops = self._loops, 0
        body, _ = self._nested(("end",), keyword)
        self._expect("close", "end")
        self._scopes, self._loops = outer, loops
        if name in self._tree.defines and body:
            raise fail(keyword.line, f'template: multiple definition of template "{name}"')
        self._tree.defines[name] = body
        return Call(name, argument, keyword.line) if kind == "block" else None

    def _nested(self, stops: tuple[str, ...], at: Token) -> tuple[list[Node], Token]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise fail(at.line, "blocks nest too deeply")
        nodes, end = self._block(stops)
        self._depth -= 1
        assert end is not None
        return nodes, end

    def _control(self, keyword: Token) -> Node:
        scope = len(self._scopes)
        value = self._pipeline(keyword.text)
        self._expect("close", keyword.text)
        self._loops += keyword.text == "range"
        body, end = self._nested(("end", "else"), keyword)
        self._loops -= keyword.text == "range"
        otherwise: list[Node] = []
        if end.text == "else":
            following = self._peek()
            if following is not None and following.text == keyword.text and keyword.text in ("if", "with"):
                self._take()
                self._depth += 1
                if self._depth > _MAX_DEPTH:
                    raise fail(keyword.line, "blocks nest too deeply")
                otherwise = [self._control(following)]  # it takes the end of all
                self._depth -= 1
                del self._scopes[scope:]
                return _node(keyword.text, value, body, otherwise)
            self._expect("close", "else")
            otherwise, end = self._nested(("end", "else"), keyword)
            if end.text == "else":
                raise fail(end.line, "expected end; found {{else}}")
        self._expect("close", "end")
        del self._scopes[scope:]
        return _node(keyword.text, value, body, otherwise)

    # ---------------------------------------------------------------- pipelines

    def _pipeline(self, where: str, parenthesized: bool = False) -> Pipeline:
        token = self._peek()
        line = token.line if token else self._last_line
        names, declares = self._declaration(where)
        commands: list[Command] = []
        while True:
            token = self._peek()
            if token is None:
                raise fail(self._last_line, "unclosed action")
            if token.kind in ("close", "right"):
                break
            commands.append(self._command(where))
            token = self._peek()
            if token is not None and token.kind == "pipe":
                self._take()
        if (token.kind == "right") != parenthesized:
            raise self._unexpected(token, where)
        if not commands:
            raise fail(line, f"missing value for {where}")
        for command in commands[1:]:
            first = command.operands[0]
            if isinstance(first, Literal):
                raise fail(line, f"non executable command in pipeline stage 2: {first.text}")
        return Pipeline(commands, names, declares, line)

    def _declaration(self, where: str) -> tuple[list[str], bool]:
        """$x := or $x = or, in range, $x, $y :=."""
        before = self._next
        names: list[str] = []
        while (token := self._peek()) is not None and token.kind == "variable":
            self._take()
            names.append(token.text)
            following = self._peek()
            if following is not None and following.kind in ("declare", "assign"):
                self._take()
                if following.kind == "declare":
                    self._scopes += names
                elif missing := [name for name in names if name not in self._scopes]:
                    raise fail(token.line, f'undefined variable "{missing[0]}"')
                return names, following.kind == "declare"
            if following is None or following.kind != "comma" or where != "range":
                break
            if len(names) > 1:
                raise fail(token.line, "too many declarations in range")
            self._take()
        self._next = before
        return [], False

    def _command(self, where: str) -> Command:
        operands = [self._operand(where)]
        while True:
            blank = self._tokens[self._next].kind == "space" if self._next < len(self._tokens) else False
            token = self._peek()
            if token is None or token.kind in ("close", "right", "pipe"):
                return Command(operands)
            if not blank:
                raise self._unexpected(token, "operand")
            operands.append(self._operand(where))

    def _operand(self, where: str) -> Operand:
        token = self._take()
        value: Operand
        if token.kind == "identifier":
            if token.text in ("true", "false"):
                value = Literal(token.text == "true", token.text)
            elif token.text not in FUNCTIONS:
                raise fail(token.line, f'function "{token.text}" not defined')
            else:
                return Function(token.text)
        elif token.kind == "dot":
            value = Field(None, [])
        elif token.kind == "field":
            value = Field(None, [token.text[1:]])
        elif token.kind == "variable":
            if token.text not in self._scopes:
                raise fail(token.line, f'undefined variable "{token.text}"')
            value = Field(Variable(token.text), [])
        elif token.kind == "left":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise fail(token.line, "parentheses nest too deeply")
            inner = self._pipeline("parenthesized pipeline", parenthesized=True)
            self._take()
            self._depth -= 1
            value = Field(inner, [])
        elif token.kind == "keyword" and token.text == "nil":
            value = Literal(None, "nil")
        else:
            value = self._constant(token, where)
        while self._next < len(self._tokens) and self._tokens[self._next].kind == "field":
            name = self._tokens[self._next]
            if isinstance(value, Literal):
                raise fail(token.line, f'unexpected . after term "{token.text}"')
            value.names.append(name.text[1:])
            self._next += 1
        return value

    def _constant(self, token: Token, where: str) -> Literal:
        if token.kind == "string":
            return Literal(unquote(token), token.text)
        if token.kind == "char":
            text = unquote(token)
            if len(text) != 1:
                raise fail(token.line, "invalid syntax")
            return Literal(ord(text), token.text)
        if token.kind == "number":
            return Literal(_number(token), token.text)
        raise self._unexpected(token, "operand" if token.kind in ("dot", "keyword") else where)


def _number(token: Token) -> int | float:
    text = token.text.replace("_", "")
    digits = text.lstrip("+-")
    try:
        if len(digits) > 1 and digits[0] == "0" and digits.isdecimal():
            return int(text, 8)  # as C writes octal
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise fail(token.line, f'bad number syntax: "{token.text}"') from None


def _node(kind: str, value: Pipeline, body: list[Node], otherwise: list[Node]) -> Node:
    if kind == "if":
        return If(value, body, otherwise)
    if kind == "with":
        return With(value, body, otherwise)
    return Range(value, body, otherwise)
