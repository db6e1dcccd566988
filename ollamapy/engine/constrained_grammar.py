"""From what a request asks for (JSON, a JSON Schema, a regular expression, a Lark grammar) to a grammar in llguidance's
notation. Does not need llguidance's tokenizer, only its notation, so it raises what is wrong before a model is loaded.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ollamapy.engine.constrained_schema import prepare
from ollamapy.types import RequestError

# White space between the parts of a JSON text: enough for every style of indentation, but an end to it.
_WHITE_SPACE = r" |\n{1,2}[ \t]{0,20}"
_CLIENTS = '{"grammars": [{"lark_grammar"'  # how a grammar of a client's own begins
_MAX_TEXT = 256 << 10  # characters of a schema or a grammar
_NAMED, _LONGEST_PATH = 20, 200  # paths in a line of the log, characters of a path

# Fuel is llguidance's count of work: a step's is about 5 ms, a grammar's about 20 ms. States take a kilobyte or two.
LIMITS: dict[str, Any] = {
    "max_items_in_row": 1000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 70_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}

log = logging.getLogger("ollamapy")


def json_grammar() -> str:
    """Any JSON object."""
    return schema_grammar({"type": "object"})


def schema_grammar(schema: dict[str, Any], strict: bool = False) -> str:
    """JSON that is valid under a schema.

    strict: a keyword that cannot be enforced is refused; else it is dropped, and the log says which. Raises
    RequestError with the path of what is wrong.
    """
    text = json.dumps({"grammars": [{"json_schema": prepared_rule(schema, strict)}]}, ensure_ascii=False)
    _check_size(text)
    return text


def prepared_rule(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    """What of a schema is enforced, with what llguidance needs to know of JSON's white space. Raises
    RequestError."""
    prepared, dropped = prepare(schema, strict)
    if dropped:
        named = [path[:_LONGEST_PATH] for path in dropped[:_NAMED]]
        more = f" and {len(dropped) - _NAMED} more" if len(dropped) > _NAMED else ""
        log.warning("not enforced in a JSON schema: %s%s", "; ".join(named), more)
    options = {"coerce_one_of": True, "whitespace_flexible": True, "whitespace_pattern": _WHITE_SPACE}
    return {**prepared, "x-guidance": options}


def regex_grammar(pattern: str) -> str:
    """Text that a regular expression matches from its beginning to its end (the syntax of Rust's regex crate)."""
    _check_size(pattern)
    return lark_grammar("start: /" + pattern.replace("/", "\\/").replace("\n", "\\n") + "/")


def lark_grammar(grammar: str) -> str:
    """Text of a Lark grammar, in llguidance's dialect: its first rule is `start`."""
    _check_size(grammar)
    return json.dumps({"grammars": [{"lark_grammar": grammar}]}, ensure_ascii=False)


def is_json(grammar: str) -> bool:
    """Whether a grammar describes JSON; what a client wrote as a regular expression or in Lark may be anything."""
    return not grammar.startswith(_CLIENTS)


def checked(grammar: str) -> str:
    """The grammar itself. Raises RequestError for one that llguidance refuses."""
    from llguidance import LLMatcher, LLParserLimits

    error = LLMatcher.validate_grammar(grammar, limits=LLParserLimits(**LIMITS))
    if error and not error.startswith("WARNING"):
        raise RequestError("invalid format: " + " ".join(error.split())[:300])
    return grammar


def _check_size(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise RequestError(f"the format has {len(text)} characters, more than {_MAX_TEXT}")
