"""The KV pages of one program: the core's memory and who has which page of it."""

from __future__ import annotations

from collections.abc import Sequence

from ollamapy import _core
from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.memory import kv_bytes, plan_pages


class KVPool:
    """Takes memory as pages are used, and gives it back when told to do with less."""

    def __init__(self, program: _core.Program, room: Sequence[int], reuse: bool = False) -> None:
        """room: the most pages that there may ever be, by layer group; address space is reserved for them. reuse:
        whether pages are shared and outlive their request. Raises MemoryError."""
        self._groups = program.groups
        self.cache = _core.KVCache(program, room)
        windows = [group.window for group in self._groups]
        self.blocks = BlockManager(windows, room, _core.PAGE_TOKENS, reuse)

    @property
    def nbytes(self) -> int:
        """Bytes that its pages take now."""
        return kv_bytes(self._groups, self.blocks.touched)

    @property
    def limit(self) -> int:
        """Bytes that they may take."""
        return kv_bytes(self._groups, self.blocks.total)

    def bytes_beyond(self, pages: Sequence[int]) -> int:
        """Bytes that so many pages of each group are more than what may be used; negative for fewer."""
        return kv_bytes(self._groups, pages) - self.limit

    def planned(self, budget: int, least: Sequence[int]) -> list[int]:
        """Pages of each group that budget bytes pay for, no fewer than least."""
        return plan_pages(self._groups, budget, least, self.blocks.tree.room)

    def gives_back(self, pages: Sequence[int]) -> bool:
        """Whether memory has to be given back before no more than so many pages may be used."""
        return any(have > most for have, most in zip(self.blocks.touched, pages, strict=True))

    def give_back(self, pages: Sequence[Sequence[int]]) -> None:
        """Give the memory of pages, by group, back to the system; blocks."""
        for group, gone in enumerate(pages):
            self.cache.give_back(group, gone)
