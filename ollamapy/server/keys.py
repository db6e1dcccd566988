"""API keys: off unless OLLAMAPY_API_KEYS names some.

It is a list of keys (separated by commas), or the path of a file with one a line: a key, or `sha256:` and the
hexadecimal SHA-256 of one. Only digests are kept and compared.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

_HASHED = "sha256:"


class KeysError(ValueError):
    """Keys that cannot be read: the server does not start without those it was told to ask for."""


def read_keys(text: str) -> frozenset[bytes]:
    """The digests of the keys in OLLAMAPY_API_KEYS; none for an empty text. Raises KeysError."""
    text = text.strip()
    if not text:
        return frozenset()
    lines = text.split(",")
    if text.startswith(("/", "./", "~/", "file:")):
        path = Path(text.removeprefix("file:")).expanduser()
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"OLLAMAPY_API_KEYS: cannot read {path}: {error}") from None
    entries = (line.strip() for line in lines)
    digests = frozenset(_digest(entry) for entry in entries if entry and not entry.startswith("#"))
    if not digests:
        raise KeysError("OLLAMAPY_API_KEYS is set and holds no key")
    return digests


def _digest(entry: str) -> bytes:
    if not entry.startswith(_HASHED):
        return hashlib.sha256(entry.encode()).digest()
    try:
        digest = bytes.fromhex(entry.removeprefix(_HASHED))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise KeysError("OLLAMAPY_API_KEYS: a hashed key is sha256: and 64 hexadecimal digits")
    return digest


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key that a request brings: a bearer token, or Anthropic's x-api-key."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


def client_of(request: web.Request, digests: frozenset[bytes]) -> str:
    """Among whom the device is shared fairly: the owners of keys where keys are asked for, else connections."""
    key = presented_key(request.headers) if digests else None
    if key is not None:
        return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return repr(peer)


def allowed(digests: frozenset[bytes], key: str | None) -> bool:
    """Whether a key is one of those; in time that does not tell which byte is wrong."""
    if key is None:
        return False
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return any([hmac.compare_digest(digest, known) for known in digests])
