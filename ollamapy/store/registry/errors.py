"""What can go wrong between us and a registry. All of it is the answer 500, as Ollama's."""

from __future__ import annotations

from ollamapy.store.errors import StoreError


class RegistryError(StoreError):
    """A registry's answer, or a connection to it, that ends a transfer."""


class UnreachableError(RegistryError):
    """No connection, or one that broke or fell silent."""


class AnswerError(RegistryError):
    """A status of 400 or more; the text is `STATUS: BODY`."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}" if body else str(status))
        self.answer = status


class MissingError(RegistryError):
    """The registry does not have it."""

    def __init__(self) -> None:
        super().__init__("file does not exist")


class UnauthorizedError(RegistryError):
    """The registry wants somebody else."""


class DigestMismatchError(RegistryError):
    """Bytes that are not what their digest promises."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"digest mismatch, file must be downloaded again: want {wanted}, got {got}")


class RangeIgnoredError(RegistryError):
    """A whole body came where a part was asked for."""
