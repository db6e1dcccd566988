"""passthrough: all text is content."""

from __future__ import annotations

from ollamapy.prompt.parsers.base import Content, Parser, Reading


class PassthroughParser(Parser, names=("passthrough",)):
    def read(self) -> Reading:
        yield from self._rest(Content)
