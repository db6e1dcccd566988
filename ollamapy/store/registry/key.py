"""The key that a registry knows us by: Ollama's ed25519 key in OpenSSH's format, `~/.ollama/id_ed25519`."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from ollamapy.store.registry.errors import RegistryError

NAME = "id_ed25519"


def _write(path: Path, data: bytes, mode: int) -> None:
    """Create a file whole, or leave the one that is there."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink()


class RegistryKey:
    """A private key that signs challenges."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def load(cls, folder: Path) -> RegistryKey:
        """The key of a folder, made first when there is none. Raises RegistryError for one that is no
        ed25519 key, OSError."""
        path = folder / NAME
        if not path.exists():
            cls._create(path)
        try:
            private = load_ssh_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise RegistryError(f"{path} cannot be read: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise RegistryError(f"{path} is no ed25519 key")
        return cls(private)

    @staticmethod
    def _create(path: Path) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        private = Ed25519PrivateKey.generate()
        _write(path, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        _write(path.with_name(NAME + ".pub"), public + b"\n", 0o644)

    @property
    def public(self) -> str:
        """The public key as `authorized_keys` writes it, without a comment."""
        return self._private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def sign(self, data: bytes) -> str:
        """An Authorization header: the public key's blob and the signature, each in base64."""
        return f"{self.public.split()[1]}:{base64.b64encode(self._private.sign(data)).decode()}"
