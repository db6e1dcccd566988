"""KV pages: which page of which layer group holds which positions of which sequence.

A page holds page_tokens consecutive positions for all layers of a group. Groups differ in their window: a
global layer sees everything before it, one with a window of W sees itself and the W - 1 positions before.

The first pages of a sequence may be shared with others through the prefix tree; the ones after them are its
own. Full pages whose tokens are known enter the tree when their rows are planned, before they are computed:
the device runs steps in order, so whoever is planned later finds them filled. For the same reason a page that
is given back may be given out at once, although steps in flight still read or write it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ollamapy.engine.memory import pages_needed
from ollamapy.engine.ports import CoreSequence
from ollamapy.engine.prefix import TOKEN_BYTES, Node, PrefixTree


class BlockTable:
    """The pages of one sequence, by group and page index; kept equal to the core's own table."""

    def __init__(self, sequence: CoreSequence, tokens: Sequence[int], groups: int, page_tokens: int) -> None:
        """tokens: of the sequence as far as they are known. The list is read, and may grow at its end."""
        self.sequence = sequence
        self.tokens = tokens
        self.page_tokens = page_tokens
        self.pages: list[dict[int, int]] = [{} for _ in range(groups)]
        self.blocks = 0  # page indices [0, blocks) have been given out, the same in every group
        self.nodes: list[Node] = []  # of the page indices [0, len(nodes)): shared
        self.ending: Node | None = None  # of the page after those, which we go on filling: only we use it
        self.unconfirmed: deque[Node] = deque()  # that have pages of ours, not computed yet
        self.source: Node | None = None  # whose page the first own one is a copy of
        self._keys: list[bytes] = []

    def held(self, group: int) -> int:
        return len(self.pages[group])

    def key(self, index: int) -> bytes:
        """The known tokens of a page, as the tree's keys; shorter than a page at the end."""
        size = self.page_tokens
        while len(self._keys) <= index and (len(self._keys) + 1) * size <= len(self.tokens):
            start = len(self._keys) * size
            self._keys.append(array("i", self.tokens[start : start + size]).tobytes())
        if index < len(self._keys):
            return self._keys[index]
        return array("i", self.tokens[index * size : (index + 1) * size]).tobytes()

    @property
    def shared(self) -> bool:
        """Whether all its pages are shared ones, none its own."""
        return self.blocks == len(self.nodes)

    @property
    def intact(self) -> bool:
        """False when a page that it shares or copied was never filled, because a step failed."""
        return all(node.intact for node in self.nodes) and (self.source is None or self.source.intact)


@dataclass(frozen=True, slots=True)
class Match:
    """What a sequence can reuse beyond what it has."""

    tokens: int  # of the sequence that are there already
    nodes: list[Node] = field(default_factory=list)  # full pages to share
    ending: Node | None = None  # a page to copy the beginning of


class BlockManager:
    """Hands out the pages of a model's pools, shares them and takes them back. Belongs to the planner."""

    def __init__(
        self, windows: Sequence[int], pages: Sequence[int], page_tokens: int, reuse: bool = True
    ) -> None:
        """windows and pages: one entry per layer group; window 0 is global. reuse: whether pages are shared
        and outlive their request."""
        if len(windows) != len(pages):
            raise ValueError("one page count per layer group")
        self.windows = tuple(windows)
        self.page_tokens = page_tokens
        self.reuse = reuse
        self.tree = PrefixTree(windows, pages)
        self.copies: list[tuple[int, int, int]] = []  # (group, from, to), due before the next step

    @property
    def total(self) -> tuple[int, ...]:
        """Per group, how many pages may be used at a time."""
        return self.tree.total

    @property
    def free(self) -> tuple[int, ...]:
        """Per group, pages that hold nothing."""
        return self.tree.free

    @property
    def available(self) -> tuple[int, ...]:
        """Per group, pages that no request uses."""
        return self.tree.available

    @property
    def used(self) -> tuple[int, ...]:
        """Per group, pages that requests use."""
        return tuple(total - left for total, left in zip(self.total, self.available, strict=True))

    @property
    def touched(self) -> tuple[int, ...]:
        """Per group, how many pages take memory."""
        return self.tree.touched

    def table(self, sequence: CoreSequence, tokens: Sequence[int] = ()) -> BlockTable:
        return BlockTable(sequence, tokens, len(self.windows), self.page_tokens)

    def need(self, tokens: int, rows: int) -> tuple[int, ...]:
        """Pages per group that a sequence of tokens holds at most when it is computed rows at a time."""
        return tuple(pages_needed(window, tokens, rows, self.page_tokens) for window in self.windows)

    def resize(self, pages: Sequence[int]) -> list[list[int]]:
        """Let so many pages of each group be used at a time. Returns, by group, those to give back to the system:
        only while no step is in flight."""
        return self.tree.resize(pages, {(group, source) for group, source, _ in self.copies})

    def capacity(self, rows: int) -> int:
        """Most tokens that one sequence alone may have."""
        groups = zip(self.windows, self.total, strict=True)
        limits = [
            total * self.page_tokens
            for window, total in groups
            if window == 0 or total < -(-(window + rows) // self.page_tokens) + 1
        ]
        return min(limits, default=2**31)

    # What others have computed

    def match(self, table: BlockTable) -> Match:
        """The longest known beginning of table's tokens, the last one excepted: it has to be computed.

        It ends where every group still has what the next token sees. Only for a table whose pages are all
        shared.
        """
        have = len(table.nodes)
        here = Match(have * self.page_tokens)
        if not self.reuse:
            return here
        limit = len(table.tokens) - 1
        path = list(table.nodes)
        node = path[-1] if path else self.tree.root
        while len(path) < limit // self.page_tokens:
            child = node.children.get(table.key(len(path)))
            if child is None or any(p < 0 for p, w in zip(child.pages, self.windows, strict=True) if not w):
                break
            path.append(child)
            node = child
        depth = self._reachable(path, have)
        node = path[depth - 1] if depth else self.tree.root
        rest = table.key(depth)[: max(0, limit - depth * self.page_tokens) * TOKEN_BYTES]
        ending, length = self.tree.ending(node, rest)
        return Match(depth * self.page_tokens + length, path[have:depth], ending)

    def _reachable(self, path: Sequence[Node], least: int) -> int:
        """The largest number of nodes after which all windows are whole."""
        best = least
        runs = [0] * len(self.windows)  # pages that lie one after the other up to here
        for index, node in enumerate(path):
            depth = index + 1
            whole = True
            for group in range(len(self.windows)):
                runs[group] = runs[group] + 1 if node.pages[group] >= 0 else 0
                whole = whole and runs[group] >= depth - self.first_seen(depth * self.page_tokens, group)
            if whole and depth > least:
                best = depth
        return best

    def attach(self, table: BlockTable, match: Match) -> int:
        """Share what was matched; returns how many tokens of table are there now."""
        shared = (len(table.nodes) + len(match.nodes)) * self.page_tokens
        for node in match.nodes:
            index = len(table.nodes)
            for group in range(len(self.windows)):
                if index >= self.first_seen(shared, group):
                    page = self.tree.refer(node, group)
                    table.pages[group][index] = page
                    table.sequence.set_page(group, index, page)
            table.nodes.append(node)
        table.blocks = len(table.nodes)
        done = table.blocks * self.page_tokens
        if match.ending is not None and match.tokens > done and self._copy(table, match.ending):
            done = match.tokens
        self.drop(table, done)
        return done

    def _copy(self, table: BlockTable, source: Node) -> bool:
        """Begin a page of one's own with a copy; False when no page is left."""
        groups = range(len(self.windows))
        for group in groups:
            self.tree.refer(source, group)
        room = min(self.available) > 0
        if room:
            for group in groups:
                page = self.tree.take(group)
                self.copies.append((group, source.pages[group], page))
                table.pages[group][table.blocks] = page
                table.sequence.set_page(group, table.blocks, page)
            table.blocks += 1
            table.source = source
        for group in groups:
            self.tree.let_go(source, group)
        return room

    # Pages of one's own

    def grow(self, table: BlockTable, tokens: int) -> bool:
        """Give table pages for its first tokens positions. All or nothing: False when a group has too few."""
        blocks = -(-tokens // self.page_tokens)
        fresh = blocks - table.blocks
        if fresh <= 0:
            return True
        if min(self.available) < fresh:
            return False
        for group in range(len(self.windows)):
            for index in range(table.blocks, blocks):
                page = self.tree.take(group)
                table.pages[group][index] = page
                table.sequence.set_page(group, index, page)
        table.blocks = blocks
        return True

    def commit(self, table: BlockTable, filled: int, exchange: bool = True) -> None:
        """Share the full pages among table's first filled positions, whose rows are planned.

        Where the tree has the page already, with the same bits, table goes over to that one. Not with
        exchange off: then it waits for the next call, because both are written in the step being planned.
        """
        if not self.reuse:
            return
        for index in range(len(table.nodes), min(filled, len(table.tokens)) // self.page_tokens):
            parent = self._parent(table)
            if parent is None:
                return
            key = table.key(index)
            node = parent.children.get(key)
            if node is not None and not exchange:
                return
            ending, table.ending = table.ending, None
            if ending is not None and ending.parent is not None and node is None:
                self.tree.rename(ending, key)
                table.nodes.append(ending)
                continue
            if ending is not None:
                self.tree.withdraw(ending)
            if node is None:
                node = self.tree.add(parent, key, [pages.get(index, -1) for pages in table.pages])
                table.unconfirmed.append(node)
            self._share(table, index, node)

    def offer(self, table: BlockTable, filled: int) -> None:
        """Let others copy the page that table goes on filling, as far as its rows are planned."""
        index = len(table.nodes)
        known = min(filled, len(table.tokens)) - index * self.page_tokens
        parent = self._parent(table)
        if not self.reuse or not 0 < known < self.page_tokens or parent is None or table.ending is not None:
            return
        key = table.key(index)[: known * TOKEN_BYTES]
        if key in parent.children or self.tree.ending(parent, key)[1] == known:
            return  # another text begins like this one
        node = self.tree.add(parent, key, [pages.get(index, -1) for pages in table.pages])
        for group, pages in enumerate(table.pages):
            if index in pages:
                self.tree.refer(node, group)
        table.unconfirmed.append(node)
        table.ending = node

    def _parent(self, table: BlockTable) -> Node | None:
        """The last shared node; None when it is not in the tree any more."""
        parent = table.nodes[-1] if table.nodes else self.tree.root
        return parent if parent is self.tree.root or parent.parent is not None else None

    def _share(self, table: BlockTable, index: int, node: Node) -> None:
        """Make a page of our own the node's, or give it back where the node has one."""
        for group, pages in enumerate(table.pages):
            if index not in pages:
                continue
            if node.pages[group] < 0:
                self.tree.give(node, group, pages[index])
                if not table.unconfirmed or table.unconfirmed[-1] is not node:
                    table.unconfirmed.append(node)
            elif node.pages[group] != pages[index]:
                self.tree.put(group, pages[index])
                table.sequence.set_page(group, index, -1)
                pages[index] = node.pages[group]
                table.sequence.set_page(group, index, pages[index])
            self.tree.refer(node, group)
        table.nodes.append(node)

    def confirm(self, table: BlockTable, computed: int) -> None:
        """The first computed positions of table have been computed."""
        while table.unconfirmed and table.unconfirmed[0].depth * self.page_tokens <= computed:
            table.unconfirmed.popleft()

    def spoil(self, table: BlockTable, start: int) -> None:
        """The rows of table from start on were not computed: nobody may build on them."""
        kept = deque[Node]()
        for node in table.unconfirmed:
            if node.depth * self.page_tokens <= start:
                kept.append(node)
                continue
            for below in node.subtree():
                below.intact = False
            self.tree.remove(node)
        table.unconfirmed = kept

    def drop(self, table: BlockTable, position: int) -> None:
        """Let go of the pages that no row at position or after it can see."""
        for group, window in enumerate(self.windows):
            if window == 0:
                continue
            first = self.first_seen(position, group)
            # Indices are inserted in rising order, so the ones to drop stand first.
            for index in [i for i in table.pages[group] if i < first]:
                self._let_go(table, group, index)

    def release(self, table: BlockTable, computed: int = 0) -> None:
        """Let go of every page of table. The first computed positions stay in the tree while there is room."""
        if table.intact:
            self._keep(table, computed)
        for group, pages in enumerate(table.pages):
            for index in sorted(pages, reverse=True):
                self._let_go(table, group, index)
        table.blocks = 0
        table.nodes = []
        table.ending = None

    def _keep(self, table: BlockTable, computed: int) -> None:
        """Leave what is computed to the tree, the last page too, which is not full."""
        self.commit(table, computed)
        self.offer(table, computed)
        parent, ending = self._parent(table), table.ending
        known = min(computed, len(table.tokens)) - len(table.nodes) * self.page_tokens
        if parent is None or ending is None or ending.parent is None or known >= self.page_tokens:
            return
        key = table.key(len(table.nodes))[: known * TOKEN_BYTES]
        if len(key) > len(ending.key) and key not in parent.children:
            self.tree.rename(ending, key)

    def _let_go(self, table: BlockTable, group: int, index: int) -> None:
        page = table.pages[group].pop(index)
        table.sequence.set_page(group, index, -1)
        if index < len(table.nodes):
            self.tree.let_go(table.nodes[index], group)
        elif index == len(table.nodes) and table.ending is not None:
            self.tree.let_go(table.ending, group)
        else:
            self.tree.put(group, page)

    def first_seen(self, position: int, group: int) -> int:
        """Index of the first page that the row at position sees."""
        window = self.windows[group]
        return max(0, position - window + 1) // self.page_tokens if window else 0
