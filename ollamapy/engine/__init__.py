"""The engine: load a model, run its requests in one batch, stream what it says."""

from ollamapy.engine.engine import Engine

__all__ = ["Engine"]
