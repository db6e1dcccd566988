"""Model names: host/namespace/model:tag with Ollama's defaults, compared without regard to case."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ollamapy.store.errors import InvalidDigestError, InvalidNameError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
PACK_HOST = "pip"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class ModelName:
    """A name with all four parts."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name and fill in the defaults. Raises InvalidNameError."""
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:  # no tag, or the colon of a host's port
            head, tag = text, DEFAULT_TAG
        parts = head.rsplit("/", 2)
        if len(parts) == 3:
            parts[0] = parts[0].partition("://")[2] or parts[0]
        host, namespace, model = [DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)] + parts
        name = cls(host, namespace, model, tag)
        if not name.valid:
            raise InvalidNameError("invalid model name")
        return name

    @classmethod
    def parse_reference(cls, text: str) -> ModelName:
        """Read the name of a model that is to be used: `:local` behind it says that no cloud is meant.

        Raises InvalidNameError.
        """
        text = text.strip()
        base, source = _source(text)
        if source and _source(base)[1]:
            raise InvalidNameError(f'use either :local or :cloud, not both: "{text}"')
        return cls.parse(base if source == "local" else text)

    @property
    def valid(self) -> bool:
        patterns = (_HOST, _NAMESPACE, _MODEL, _TAG)
        parts = (self.host, self.namespace, self.model, self.tag)
        return all(pattern.fullmatch(part) for pattern, part in zip(patterns, parts, strict=True))

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """The shortest text that parses to this name, with its tag."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where the manifest lies below the manifests folder."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> ModelName:
        """The same name for every spelling."""
        return replace(
            self,
            host=self.host.lower(),
            namespace=self.namespace.lower(),
            model=self.model.lower(),
            tag=self.tag.lower(),
        )


def _source(text: str) -> tuple[str, str]:
    """A name without the word behind it that says where it runs, and that word: local, cloud or ""."""
    base, colon, word = text.rpartition(":")
    word = word.strip().lower()
    if colon and (word in ("local", "cloud") or (word.endswith("-cloud") and "/" not in word)):
        return base, "local" if word == "local" else "cloud"
    return text, ""


def parse_digest(text: str) -> str:
    """A digest as manifests write it, `sha256:` and 64 lower-case digits. Raises InvalidDigestError."""
    match = _DIGEST.fullmatch(text)
    if not match:
        raise InvalidDigestError("invalid digest format")
    return "sha256:" + match[1].lower()
