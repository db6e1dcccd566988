"""What can go wrong with a model store, with the HTTP status that tells it."""

from __future__ import annotations

from ollamapy.types import RequestError


class StoreError(RequestError):
    """The store cannot do it: an unreadable folder, a manifest that is no manifest."""

    status = 500


class InvalidNameError(RequestError):
    """A model name that does not follow host/namespace/model:tag."""


class InvalidDigestError(RequestError):
    """A digest that is not sha256 and 64 hexadecimal digits."""


class ModelNotFoundError(RequestError):
    """No manifest of that name."""

    status = 404


class BlobNotFoundError(RequestError):
    """A blob that a request names is not in the store."""

    status = 404


class PackError(RequestError):
    """A Python distribution could not be fetched or carries no model that we can import."""

    status = 500


class ConversionError(RequestError):
    """A model folder that cannot become a GGUF: not a model we run, or not whole."""
