"""Renderers: prompts written by code instead of a template, for families that RENDERER in a Modelfile names.

Each family is one file that registers its names, imported here by one line.
"""

from ollamapy.prompt.renderers import (  # noqa: F401 (importing a family registers it)
    cogito,
    qwen3_coder,
)
from ollamapy.prompt.renderers.registry import Renderer, names, renderer

__all__ = ["Renderer", "names", "renderer"]
