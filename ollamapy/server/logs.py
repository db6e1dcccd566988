"""The log: one record a line, as logfmt or JSON, each with the id of the request that it belongs to.

A record's own fields (`extra={"fields": {…}}`) follow its message. Nothing that users wrote to a model is ever
logged.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from typing import Any, TextIO

import orjson

from ollamapy.engine.loop import TRACE
from ollamapy.server.trace import current

FORMATS = ("logfmt", "json")

_BARE = re.compile(r"[A-Za-z0-9_./:+@=-]+")  # a logfmt value that needs no quotes; = only from ids of clients
_TRUE = ("1", "t", "true")
_STANDARD = (  # by Ollama's number: slog's levels are four apart
    (8, logging.ERROR),
    (4, logging.WARNING),
    (0, logging.INFO),
    (-4, logging.DEBUG),
)


def log_level(debug: str) -> int:
    """The level that OLLAMA_DEBUG asks for: empty, 0 and false INFO, 1 and true DEBUG, 2 and more TRACE; a negative
    number less than INFO, as Ollama's reading of it (-1 WARNING, -2 ERROR). Anything else is INFO."""
    text = debug.strip()
    if text.lower() in _TRUE:
        return logging.DEBUG
    try:
        number = int(text)
    except ValueError:
        return logging.INFO
    level = -4 * number
    return next((name for least, name in _STANDARD if level >= least), TRACE)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says, in order: time (RFC 3339, UTC, milliseconds), level, msg, the id, the record's own fields."""
    moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
    found: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "msg": record.getMessage(),
    }
    trace = getattr(record, "trace", None) or current()
    if trace is not None:
        found["id"] = trace.id
    found.update(getattr(record, "fields", {}))
    if record.exc_info:
        found["trace"] = logging.Formatter().formatException(record.exc_info)
    return found


class LogfmtFormatter(logging.Formatter):
    """key=value pairs; values with spaces, quotes or control characters are JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_logfmt(value)}" for key, value in fields_of(record).items())


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(_sayable(fields_of(record))).decode()


def _logfmt(value: object) -> str:
    text = str(value)
    if _BARE.fullmatch(text):
        return text
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


def _sayable(fields: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which JSON cannot say."""
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in fields.items()
    }


def configure(level: int, form: str, stream: TextIO | None = None) -> None:
    """Log to stream (standard error) from now on. Other packages' records are shown from WARNING on."""
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else LogfmtFormatter())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("ollamapy").setLevel(level)
