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
_MAX_TEXT = 256 << 10  # characters of a schema or a grammar

log = logging.getLogger("ollamapy")


def json_grammar() -> str:
    """Any JSON object."""
    return schema_grammar({"type": "object"})


def schema_grammar(schema: dict[str, Any], strict: bool = False) -> str:
    """JSON that is valid under a schema.

    strict: a keyword that cannot be enforced is refused; else it is dropped, and the log says which. Raises
    RequestError with the path of what is wrong.
    """
    prepared, dropped = prepare(schema, strict)
    if dropped:
        log.warning("not enforced in a JSON schema: %s", "; ".join(dropped))
    return schema_rule(prepared)


def schema_rule(prepared: Any) -> str:
    """A schema that has been prepared, as a grammar of its own."""
    if prepared is True:
        prepared = {}
    options = {"coerce_one_of": True, "whitespace_flexible": True, "whitespace_pattern": _WHITE_SPACE}
    _check_size(text := json.dumps({**prepared, "x-guidance": options}, ensure_ascii=False))
    return json.dumps({"grammars": [{"json_schema": json.loads(text)}]}, ensure_ascii=False)


def regex_grammar(pattern: str) -> str:
    """Text that a regular expression matches from its beginning to its end (the syntax of Rust's regex crate)."""
    _check_size(pattern)
    return lark_grammar("start: /" + pattern.replace("/", "\\/").replace("\n", "\\n") + "/")


def lark_grammar(grammar: str) -> str:
    """Text of a Lark grammar, in llguidance's dialect: its first rule is `start`."""
    _check_size(grammar)
    return json.dumps({"grammars": [{"lark_grammar": grammar}]}, ensure_ascii=False)


def _check_size(text: str) -> None:
    if len(text) > _MAX_TEXT:
        raise RequestError(f"the format has {len(text)} characters, more than {_MAX_TEXT}")
