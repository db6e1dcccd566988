"""Reads request bodies as leniently as Ollama does, into typed requests.

The first JSON value of the body counts, whatever the content type. Keys match field names without regard to
case and the last one wins; unknown keys and nulls are dropped. Invalid UTF-8 and lone surrogates become
U+FFFD, integers beyond 64 bits floats. Depth and the length of lists are bounded.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import types
import typing
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from ollamapy.server.bodies import Bodies, BodyError
from ollamapy.types import RequestError

T = TypeVar("T", bound=msgspec.Struct)

MAX_DEPTH = 500  # of nested objects and lists; tool schemas stay far below
MAX_ITEMS = 1 << 16  # of a list of texts or objects: messages, tools, inputs; token ids are not counted
_LARGE = 64 << 10  # bytes from which decoding leaves the event loop
_HUGE = 8 << 20  # bytes from which bodies are decoded one after the other: each takes a multiple of its size
_MOST_BODIES = 1 << 30  # bytes in memory at a time
BODIES = web.AppKey("bodies", Bodies)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = re.compile(r"[ \t\r\n]*")
_LONE = re.compile("[\ud800-\udfff]")


_one_by_one = ThreadPoolExecutor(1, thread_name_prefix="decode")


def new_bodies() -> Bodies:
    """What an application keeps under BODIES."""
    return Bodies(_MOST_BODIES)


def _refuse(text: str) -> Any:
    raise ValueError(f"invalid number {text}")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number {text} is out of range")
    return value


def _int(text: str) -> int | float:
    """An integer; one that 64 bits do not hold is a float, as Go reads it: nothing else could write it again."""
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 64 else _float(text)


_decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_float, parse_int=_int)


def _too_deep(text: str) -> bool:
    """Whether brackets outside of strings nest deeper than MAX_DEPTH."""
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text, re.DOTALL):
        character = match[0][0]
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _check_lengths(value: Any, where: str = "") -> None:
    """Raises BodyError for a list that nobody asks in earnest: every item of it would cost each later step."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list)):
                _check_lengths(item, f"{where}.{key[:40]}" if where else key[:40])
    elif isinstance(value, list):
        if len(value) > MAX_ITEMS and not isinstance(value[0], (int, float)):
            raise BodyError(f"{where or 'the body'} has {len(value)} items, at most {MAX_ITEMS} are taken")
        for item in value:
            if isinstance(item, (dict, list)):
                _check_lengths(item, where)


def _mend(value: Any) -> Any:
    """Replace lone surrogates in every string."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


def first_value(body: bytes) -> Any:
    """The first JSON value of a body; text after it is ignored. Raises BodyError."""
    text = body.decode("utf-8", "replace")
    match = _BLANK.match(text)
    start = match.end() if match else 0
    if start == len(text):
        raise BodyError("missing request body")
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(text):
        raise BodyError("exceeded max depth")
    try:
        value, _ = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            raise BodyError("unexpected EOF") from None
        raise BodyError(f"invalid JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise BodyError(f"invalid JSON: {error}") from None
    if len(body) > MAX_ITEMS:
        _check_lengths(value)
    return _mend(value) if _SURROGATE.search(text) else value


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """By folded key: the encoded name and the type of a field."""
    return {
        field.encode_name.lower(): (field.encode_name, _inner(field.type))
        for field in msgspec.structs.fields(struct)
    }


def _inner(kind: Any) -> Any:
    """The struct, or list of structs, texts or integers, in an optional type."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            if option is not types.NoneType and (found := _inner(option)) is not None:
                return found
        return None
    if typing.get_origin(kind) is list:
        item = typing.get_args(kind)[0]
        item = item if item in (str, int) else _inner(item)
        return None if item is None else [item]
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _fold(value: Any, kind: Any) -> Any:
    """Match keys to the fields of kind: a struct type, a list of one type, or None for data left as it is.

    A null in a list is what a value of its type is when nothing is said.
    """
    if isinstance(kind, list):
        if not isinstance(value, list):
            return value
        if kind[0] in (str, int):
            return [kind[0]() if item is None else item for item in value]
        return [_fold({} if item is None else item, kind[0]) for item in value]
    if kind is None or not isinstance(value, dict):
        return value
    fields = _fields(kind)
    folded: dict[str, Any] = {}
    for key, item in value.items():
        if (found := fields.get(key.lower())) is not None:
            name, inner = found
            if item is None:
                folded.pop(name, None)
            else:
                folded[name] = _fold(item, inner)
    return folded


def convert(body: bytes, kind: type[T]) -> T:
    """A body as a request. Raises BodyError."""
    value = first_value(body)
    if value is None:
        value = {}
    try:
        return msgspec.convert(_fold(value, kind), kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RequestError):  # in the words of who read the value
            raise error.__cause__ from None
        raise BodyError(f"invalid request: {error}") from None


async def read_request(request: web.Request, kind: type[T]) -> T:
    """Read and decode the body of a request, off the event loop when it is large.

    Raises BodyError, and what Bodies.read() raises.
    """
    async with request.app[BODIES].read(request) as body:
        if len(body) < _LARGE:
            return convert(body, kind)
        pool = _one_by_one if len(body) >= _HUGE else None
        return await asyncio.get_running_loop().run_in_executor(pool, convert, body, kind)
