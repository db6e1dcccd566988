"""Renderers: prompts written by code instead of a template, for families that RENDERER in a Modelfile names.

Each family is one file that registers its names, imported here by one line.
"""

from ollamapy.prompt.renderers import (  # noqa: F401 (importing a family registers it)
    cogito,
    cohere,
    deepseek3,
    functiongemma,
    gemma4,
    glimmer,
    glm,
    laguna,
    lfm2,
    nemotron3,
    olmo3,
    qwen3_coder,
    qwen3_vl,
    qwen35,
)
from ollamapy.prompt.renderers.registry import Renderer, names, renderer

__all__ = ["Renderer", "names", "renderer"]
