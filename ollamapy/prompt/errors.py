"""What a template can do wrong."""

from __future__ import annotations

from ollamapy.types import RequestError


class TemplateSyntaxError(RequestError):
    """A template that cannot be parsed."""


class TemplateRenderError(RequestError):
    """A template that fails on these messages."""

    status = 500
