"""KV pages: which page of which layer group holds which positions of which sequence.

A page holds page_tokens consecutive positions of one sequence for all layers of a group. Groups differ in
their window: a global layer sees everything before it, one with a window of W sees itself and the W - 1
positions before.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollamapy.engine.ports import CoreSequence


class BlockTable:
    """The pages of one sequence, by group and page index; kept equal to the core's own table."""

    def __init__(self, sequence: CoreSequence, groups: int) -> None:
        self.sequence = sequence
        self.pages: list[dict[int, int]] = [{} for _ in range(groups)]
        self.blocks = 0  # page indices [0, blocks) have been given out, the same in every group

    def held(self, group: int) -> int:
        return len(self.pages[group])


class BlockManager:
    """Hands out the pages of a model's pools and takes them back.

    It is called between steps only. A page may be released or dropped once no step in flight reads it: the
    caller sees to that.
    """

    def __init__(self, windows: Sequence[int], pages: Sequence[int], page_tokens: int) -> None:
        """windows and pages: one entry per layer group; window 0 is global."""
        if len(windows) != len(pages):
            raise ValueError("one page count per layer group")
        self.windows = tuple(windows)
        self.page_tokens = page_tokens
        self._total = tuple(pages)
        # The lowest free page comes first, so that memory once touched is used again before more is touched.
        self._free = [list(range(count - 1, -1, -1)) for count in pages]
        self._touched = [0] * len(pages)

    @property
    def total(self) -> tuple[int, ...]:
        return self._total

    @property
    def free(self) -> tuple[int, ...]:
        return tuple(len(pages) for pages in self._free)

    @property
    def touched(self) -> tuple[int, ...]:
        """Per group, how many pages have ever been used: what the pool really costs."""
        return tuple(self._touched)

    def table(self, sequence: CoreSequence) -> BlockTable:
        return BlockTable(sequence, len(self.windows))

    def need(self, tokens: int, rows: int) -> tuple[int, ...]:
        """Pages per group that a sequence of tokens holds at most when it is computed rows at a time."""
        blocks = -(-tokens // self.page_tokens)
        return tuple(
            blocks if window == 0 else min(blocks, -(-(window + rows) // self.page_tokens) + 1)
            for window in self.windows
        )

    def capacity(self, rows: int) -> int:
        """Most tokens that one sequence alone may have."""
        groups = zip(self.windows, self._total, strict=True)
        limits = [
            total * self.page_tokens
            for window, total in groups
            if window == 0 or total < -(-(window + rows) // self.page_tokens) + 1
        ]
        return min(limits, default=2**31)

    def grow(self, table: BlockTable, tokens: int) -> bool:
        """Give table pages for its first tokens positions. All or nothing: False when a group has too few."""
        blocks = -(-tokens // self.page_tokens)
        fresh = blocks - table.blocks
        if fresh <= 0:
            return True
        if any(len(pages) < fresh for pages in self._free):
            return False
        for group, free in enumerate(self._free):
            for index in range(table.blocks, blocks):
                page = free.pop()
                self._touched[group] = max(self._touched[group], page + 1)
                table.pages[group][index] = page
                table.sequence.set_page(group, index, page)
        table.blocks = blocks
        return True

    def drop(self, table: BlockTable, position: int) -> None:
        """Take back the pages that no row at position or after it can see."""
        for group, window in enumerate(self.windows):
            if window == 0:
                continue
            first = max(0, position - window + 1) // self.page_tokens
            pages = table.pages[group]
            # Indices are inserted in rising order, so the ones to drop stand first.
            for index in [i for i in pages if i < first]:
                self._free[group].append(pages.pop(index))
                table.sequence.set_page(group, index, -1)

    def release(self, table: BlockTable) -> None:
        """Take back every page of table."""
        for group, pages in enumerate(table.pages):
            self._free[group].extend(pages.values())
            for index in pages:
                table.sequence.set_page(group, index, -1)
            pages.clear()
        table.blocks = 0
