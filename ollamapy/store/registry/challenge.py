"""The token that a registry asks for with 401 and `WWW-Authenticate: Bearer realm=…,service=…,scope=…`."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from yarl import URL

from ollamapy.store.registry.errors import RegistryError, UnauthorizedError
from ollamapy.store.registry.key import RegistryKey

_FIELD = re.compile(r'([A-Za-z]+)="([^"]*)"')
_NO_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """Where a token is given and what for."""

    realm: URL
    service: str
    scope: str

    @classmethod
    def parse(cls, header: str, asked: URL) -> Challenge:
        """Read the header of an answer to `asked`.

        Raises UnauthorizedError for a scheme that is not Bearer or a header that cannot be read, and
        RegistryError when the realm belongs to another host: what we sign would go to strangers.
        """
        fields = dict(_FIELD.findall(header))
        try:
            realm = URL(fields.get("realm", ""))
        except ValueError:
            raise UnauthorizedError("unauthorized: access denied") from None
        host, own = urlsplit(str(realm)).netloc, urlsplit(str(asked)).netloc
        if host != own:
            raise RegistryError(f'realm host "{host}" does not match original host "{own}"')
        if not header.lower().startswith("bearer ") or realm.scheme not in ("http", "https"):
            raise UnauthorizedError("unauthorized: access denied")
        return cls(realm, fields.get("service", ""), fields.get("scope", ""))

    def request(self, key: RegistryKey) -> tuple[URL, str]:
        """The URL that gives the token, and the Authorization header that asks for it."""
        query = list(self.realm.query.items())
        query += [("service", self.service), *(("scope", word) for word in self.scope.split(" "))]
        query += [("ts", str(int(time.time()))), ("nonce", _nonce())]
        # The text that is signed is the text that is sent, so it is encoded once, here.
        encoded = urlencode(sorted(query, key=lambda pair: pair[0]))
        url = URL(f"{self.realm.with_query(None).with_fragment(None)}?{encoded}", encoded=True)
        return url, key.sign(f"GET,{url},{_NO_BODY}".encode())


def _nonce() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
