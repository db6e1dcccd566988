"""Reads a Go template into its syntax tree, with the grammar and the messages of text/template/parse."""

from __future__ import annotations

import re

from ollamapy.prompt.errors import TemplateSyntaxError
from ollamapy.prompt.gotemplate.functions import FUNCTIONS
from ollamapy.prompt.gotemplate.lex import Token, fail, quoted, tokens, unquote
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
    is_blank,
)

_MAX_DEPTH = 100  # of nested blocks and parentheses: no template written by people comes near
_MAX_SOURCE = 128 << 10  # characters
_OPERANDS = frozenset(
    ["bool", "char", "number", "dot", "field", "identifier", "string", "variable", "left", "keyword:nil"]
)


def parse(source: str) -> Tree:
    """The tree of a template. Raises TemplateSyntaxError, worded as Go words it."""
    try:
        return _Parser(source).template()
    except RecursionError:
        raise TemplateSyntaxError("template: the template nests too deeply") from None


class _Parser:
    def __init__(self, source: str) -> None:
        if len(source) > _MAX_SOURCE:
            raise TemplateSyntaxError("template: the template is too long")
        self._tokens = tokens(source)
        self._next = 0
        self._scopes: list[str] = ["$"]
        self._loops = 0
        self._depth = 0
        self._tree = Tree(source, [])

    # ---------------------------------------------------------------- tokens

    def _peek(self, blanks: bool = False) -> Token:
        """The next token; the next that is no blank."""
        if not blanks:
            while self._tokens[self._next].kind == "space":
                self._next += 1
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._peek()
        self._next = min(self._next + 1, len(self._tokens) - 1)  # the last one stays
        return token

    def _is(self, token: Token, keyword: str) -> bool:
        return token.kind == "keyword" and token.text == keyword

    def _expect(self, kind: str, where: str) -> Token:
        token = self._take()
        if token.kind != kind:
            raise self._unexpected(token, where)
        return token

    def _unexpected(self, token: Token, where: str) -> TemplateSyntaxError:
        if token.kind == "error":
            return fail(token.line, token.text)
        return fail(token.line, f"unexpected {token} in {where}")

    def _deeper(self, line: int) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise fail(line, "the template nests too deeply")

    # ---------------------------------------------------------------- blocks

    def template(self) -> Tree:
        nodes: list[Node] = []
        while self._peek().kind != "eof":
            if self._tokens[self._next].kind == "open":
                mark = self._next
                self._next += 1
                if self._is(self._peek(), "define"):
                    self._define(self._take())
                    continue
                self._next = mark
            node = self._text_or_action()
            if isinstance(node, Token):
                raise fail(node.line, f"unexpected {{{{{node.text}}}}}")
            nodes.append(node)
        self._tree.nodes = nodes
        self._add("", nodes, self._tokens[-1].line)
        del self._tree.defines[""]
        return self._tree

    def _add(self, name: str, nodes: list[Node], line: int) -> None:
        known = self._tree.defines.get(name)
        if known is None or is_blank(known):
            self._tree.defines[name] = nodes
        elif not is_blank(nodes):
            raise fail(line, f"template: multiple definition of template {quoted(name)}")

    def _define(self, keyword: Token) -> None:
        name = self._name(self._take(), "define clause")
        self._expect("close", "define clause")
        self._add(name, self._definition(keyword, "define clause"), keyword.line)

    def _definition(self, keyword: Token, where: str) -> list[Node]:
        """The body of a template of its own, with no variables of the one around it, up to its end."""
        outer, self._scopes = self._scopes, ["$"]
        loops, self._loops = self._loops, 0
        nodes, end = self._block(keyword)
        if end.text != "end":
            raise fail(end.line, f"unexpected {{{{{end.text}}}}} in {where}")
        self._scopes, self._loops = outer, loops
        return nodes

    def _name(self, token: Token, where: str) -> str:
        if token.kind != "string":
            raise self._unexpected(token, where)
        return self._unquoted(token)

    def _block(self, at: Token) -> tuple[list[Node], Token]:
        """Nodes up to {{end}} or {{else}}, whose keyword is returned."""
        self._deeper(at.line)
        nodes: list[Node] = []
        while (token := self._peek()).kind != "eof":
            node = self._text_or_action()
            if isinstance(node, Token):
                self._depth -= 1
                return nodes, node
            nodes.append(node)
        raise fail(token.line, "unexpected EOF")

    def _text_or_action(self) -> Node | Token:
        token = self._take()
        if token.kind == "text":
            return Text(token.text, token.position)
        if token.kind != "open":
            raise self._unexpected(token, "input")
        token = self._peek()
        if token.kind == "keyword" and token.text not in ("nil", "define"):
            return self._statement(self._take())
        if self._is(token, "define"):
            raise self._unexpected(token, "command")
        return Output(self._pipeline("command"), token.position)

    def _statement(self, keyword: Token) -> Node | Token:
        kind = keyword.text
        if kind in ("if", "with", "range"):
            return self._control(keyword)
        if kind in ("break", "continue"):
            self._expect("close", f"{{{{{kind}}}}}")
            if not self._loops:
                raise fail(keyword.line, f"{{{{{kind}}}}} outside {{{{range}}}}")
            return Leave(kind, keyword.position)
        if kind == "end":
            self._expect("close", "end")
            return keyword
        if kind == "else":
            following = self._peek()
            if not (self._is(following, "if") or self._is(following, "with")):
                self._expect("close", "else")
            return keyword
        where = f"{kind} clause"
        token = self._take()
        name = self._name(token, where)
        argument = None
        if kind == "block":
            argument = self._pipeline(where)
            self._add(name, self._definition(keyword, where), keyword.line)
        elif self._peek().kind == "close":
            self._take()
        else:
            argument = self._pipeline(where)
        return Call(name, argument, token.position)

    def _control(self, keyword: Token) -> Node:
        kind, scope = keyword.text, len(self._scopes)
        pipeline = self._pipeline(kind)
        self._loops += kind == "range"
        body, end = self._block(keyword)
        self._loops -= kind == "range"
        otherwise: list[Node] | None = None
        if end.text == "else":
            if kind in ("if", "with") and self._is(self._peek(), kind):
                following = self._take()
                self._deeper(following.line)
                otherwise = [self._control(following)]  # it takes the end of all
                self._depth -= 1
            else:
                otherwise, end = self._block(keyword)
                if end.text != "end":
                    raise fail(end.line, f"expected end; found {{{{{end.text}}}}}")
        del self._scopes[scope:]
        return Branch(kind, pipeline, body, otherwise, keyword.position)

    # ---------------------------------------------------------------- pipelines

    def _pipeline(self, where: str, closing: str = "close") -> Pipeline:
        """A pipeline and what closes it."""
        first = self._peek()
        names, declares = self._declaration(where)
        commands: list[Command] = []
        while (token := self._peek()).kind != closing:
            word = f"keyword:{token.text}" if token.kind == "keyword" else token.kind
            if word not in _OPERANDS:
                raise self._unexpected(self._take(), where)
            commands.append(self._command())
        self._take()
        if not commands:
            raise fail(token.line, f"missing value for {where}")
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.operands[0], (Constant, Dot)):
                raise fail(token.line, f"non executable command in pipeline stage {stage}")
        return Pipeline(commands, names, declares, first.position)

    def _declaration(self, where: str) -> tuple[list[str], bool]:
        """$x := or $x = or, in range, $x, $y :=."""
        names: list[str] = []
        while (token := self._peek()).kind == "variable":
            mark = self._next
            self._take()
            following = self._peek()
            if following.kind in ("assign", "declare"):
                self._take()
                names.append(token.text)
                self._scopes.append(token.text)
                return names, following.kind == "declare"
            if following.kind != "comma":
                self._next = mark
                break
            self._take()
            names.append(token.text)
            self._scopes.append(token.text)
            if where != "range" or len(names) > 1:
                raise fail(following.line, f"too many declarations in {where}")
            if self._peek().kind not in ("variable", "close", "right"):
                raise fail(self._peek().line, "range can only initialize variables")
        return names, bool(names)

    def _command(self) -> Command:
        position = self._peek().position
        operands: list[Operand] = []
        while True:
            operand = self._operand()
            if operand is not None:
                operands.append(operand)
            token = self._peek(blanks=True)
            if token.kind == "space":
                self._next += 1
                continue
            if token.kind == "pipe":
                self._next += 1
            elif token.kind not in ("close", "right"):
                raise self._unexpected(token, "operand")
            if not operands:
                raise fail(token.line, "empty command")
            return Command(operands, position)

    def _operand(self) -> Operand | None:
        start = self._peek()
        term = self._term()
        if term is None:
            return None
        names: list[str] = []
        chained = self._peek(blanks=True).position
        while (token := self._peek(blanks=True)).kind == "field":
            names.append(token.text[1:])
            self._next += 1
        if not names:
            return term
        if isinstance(term, (Field, Variable)):
            term.names += names
            term.position = chained  # where Go's messages say that it is
            return term
        if isinstance(term, (Constant, Dot)):
            raise fail(token.line, f"unexpected . after term {quoted(str(term))}")
        return Chain(term, names, start.position)

    def _term(self) -> Operand | None:
        token = self._peek()
        kind, text, at = token.kind, token.text, token.position
        if kind == "keyword" and text == "nil":
            self._next += 1
            return Constant(None, "nil", at, "nil")
        if kind not in _OPERANDS:
            return None
        self._next += 1
        if kind == "identifier":
            if text not in FUNCTIONS:
                raise fail(token.line, f"function {quoted(text)} not defined")
            return Function(text, at)
        if kind == "dot":
            return Dot(at)
        if kind == "field":
            return Field([text[1:]], at)
        if kind == "variable":
            if text not in self._scopes:
                raise fail(token.line, f"undefined variable {quoted(text)}")
            return Variable(text, [], at)
        if kind == "bool":
            return Constant(text == "true", text, at, "bool")
        if kind == "string":
            return Constant(self._unquoted(token), text, at, "string")
        if kind == "left":
            self._deeper(token.line)
            inner = self._pipeline("parenthesized pipeline", "right")
            self._depth -= 1
            return inner
        return self._number(token)

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            raise fail(token.line, str(error)) from None

    def _number(self, token: Token) -> Constant:
        if token.kind == "char":
            text = self._unquoted(token)
            if len(text) != 1:
                wrong = "invalid syntax" if not text else f"malformed character constant: {token.text}"
                raise fail(token.line, wrong)
            return Constant(ord(text), token.text, token.position, "int")
        try:
            value, kind = number(token.text)
        except ValueError as error:
            raise fail(token.line, str(error)) from None
        return Constant(value, token.text, token.position, kind)


_INTEGER = re.compile(
    r"([+-]?)(?:(0)_?([0-7]+(?:_[0-7]+)*)|0[oO]_?([0-7]+(?:_[0-7]+)*)|0[bB]_?([01]+(?:_[01]+)*)"
    r"|0[xX]_?([\da-fA-F]+(?:_[\da-fA-F]+)*)|(0|[1-9]\d*(?:_\d+)*))",
    re.ASCII,
)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0[xX](?:[\da-fA-F]+\.?[\da-fA-F]*|\.[\da-fA-F]+)[pP][+-]?\d+", re.ASCII)
_MISPLACED = re.compile(r"(?<![\da-fA-FxX])_|_(?![\da-fA-F])")  # an underscore separates digits


def number(text: str) -> tuple[int | float | complex, str]:
    """A number constant and what it is: "int", "float", "complex" or "huge". Raises ValueError."""
    if text.endswith("i"):
        split = max(text.rfind("+"), text.rfind("-"))
        if split > 0 and text[split - 1] not in "eEpP":
            return complex(_float(text[:split]), _float(text[split:-1])), "complex"
        return complex(0, _float(text[:-1])), "complex"
    if match := _INTEGER.fullmatch(text):
        sign, octal = match[1], match[2]
        bases = ((match[3] if octal else match[4], 8), (match[5], 2), (match[6], 16), (match[7], 10))
        value = next(int(digits.replace("_", ""), base) for digits, base in bases if digits)
        value = -value if sign == "-" else value
        if -(1 << 63) <= value < 1 << 63:
            return value, "int"
        if 0 <= value < 1 << 64 and not sign:
            return value, "huge"
    found = _float(text)
    if not any(c in text for c in ".eEpP"):
        raise ValueError(f"integer overflow: {quoted(text)}")
    # a float's text that names an integer still counts as a float where no type is asked for
    return found, "float"


def _float(text: str) -> float:
    wrong = f"illegal number syntax: {quoted(text)}"
    if _MISPLACED.search(text):
        raise ValueError(wrong)
    plain = text.replace("_", "")
    try:
        if _HEXADECIMAL.fullmatch(plain):
            return float.fromhex(plain)
        if not _DECIMAL.fullmatch(plain):
            raise ValueError(wrong)
        value = float(plain)
    except (ValueError, OverflowError):
        raise ValueError(wrong) from None
    if value in (float("inf"), float("-inf")):
        raise ValueError(wrong)
    return value
