"""The prefix tree: which page holds the keys and values of which tokens, for whoever comes next.

A node stands for one page of tokens after those of its ancestors, and has the page of each layer group that
holds them. The keys are the token ids themselves, so there is no false hit; the tree belongs to the pools of one
loaded model (its weights, its KV type), so nothing else can differ either.

Pages are referenced by the requests that read them, group by group: a request that has left a window keeps its
reference to the global page only. A page without references stays until it is needed for something else, here or
for another model; the one that was let go of first goes first. Requests let go of the end of their text before its
beginning, so a global page never goes before those that build on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence

TOKEN_BYTES = 4  # of a token in a key


class Node:
    """One page of tokens. A leaf may have fewer than fill a page: the end of a text."""

    __slots__ = ("children", "depth", "intact", "key", "pages", "parent", "references")

    def __init__(self, parent: Node | None, key: bytes, pages: list[int]) -> None:
        """key: the token ids, int32. pages: by group, -1 where it has none."""
        self.parent = parent  # None: the root, or not in the tree any more
        self.key = key
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[bytes, Node] = {}
        self.pages = pages
        self.references = [0] * len(pages)
        self.intact = True  # False: the step that should have filled it failed

    def subtree(self) -> Iterator[Node]:
        """The node and all below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


class PrefixTree:
    """The page pools of a model's layer groups, and the tree over the pages that are worth keeping."""

    def __init__(self, windows: Sequence[int], pages: Sequence[int]) -> None:
        """windows and pages: one entry per layer group; window 0 is global."""
        self._windows = tuple(windows)
        self.room = tuple(pages)
        self.total = tuple(pages)
        self.root = Node(None, b"", [-1] * len(pages))
        # A page takes memory from its first use until it is given back; those that do are used first.
        self._free: list[list[int]] = [[] for _ in pages]  # that take memory and hold nothing
        self._fresh = [0] * len(pages)  # pages from here on have never been used
        self._returned: list[list[int]] = [[] for _ in pages]  # of those before: given back
        self._idle: list[OrderedDict[Node, None]] = [OrderedDict() for _ in pages]  # next to go first
        self.evictions = 0

    @property
    def free(self) -> tuple[int, ...]:
        """Per group, pages that hold nothing and may be used."""
        groups = zip(self.total, self.touched, self._free, strict=True)
        return tuple(total - touched + len(free) for total, touched, free in groups)

    @property
    def idle(self) -> tuple[int, ...]:
        """Per group, pages that nobody reads but that may be read again."""
        return tuple(len(nodes) for nodes in self._idle)

    @property
    def available(self) -> tuple[int, ...]:
        """Per group, pages that can be had: free ones and idle ones."""
        return tuple(free + len(idle) for free, idle in zip(self.free, self._idle, strict=True))

    @property
    def touched(self) -> tuple[int, ...]:
        """Per group, how many pages take memory."""
        return tuple(f - len(returned) for f, returned in zip(self._fresh, self._returned, strict=True))

    # Pages

    def take(self, group: int) -> int:
        """A page to write: a free one, else that of the text that has been idle longest. IndexError when all
        are in use."""
        if not self._free[group]:
            returned = self._returned[group]
            if self._fresh[group] - len(returned) < self.total[group]:
                if returned:
                    return returned.pop()
                self._fresh[group] += 1
                return self._fresh[group] - 1
            if not self._idle[group]:
                raise IndexError(f"no page of group {group} is left")
            self._evict(group)
        return self._free[group].pop()

    def put(self, group: int, page: int) -> None:
        """Take back a page that holds nothing of value."""
        self._free[group].append(page)

    def refer(self, node: Node, group: int) -> int:
        """Read a node's page; it stays until it is let go of."""
        if node.references[group] == 0:
            self._idle[group].pop(node, None)
        node.references[group] += 1
        return node.pages[group]

    def let_go(self, node: Node, group: int) -> None:
        node.references[group] -= 1
        if node.references[group] == 0:
            if node.parent is None:
                self._drop_page(node, group)
            else:
                self._idle[group][node] = None

    def resize(self, pages: Sequence[int], busy: Container[tuple[int, int]] = ()) -> list[list[int]]:
        """Let so many pages of each group be used, no more than there is room for and no fewer than are in use.

        Returns the pages, by group, that hold nothing any more and whose memory has to be given back; the texts
        that have been idle longest make room. busy: (group, page) that are read yet.
        """
        found: list[list[int]] = []
        for group, most in enumerate(pages):
            while self.touched[group] - len(self._free[group]) > most and self._idle[group]:
                self._evict(group)
        for group, most in enumerate(pages):
            surplus = max(0, self.touched[group] - most)
            free = sorted(self._free[group], reverse=True)
            gone = [page for page in free if (group, page) not in busy][:surplus]
            self._free[group] = sorted(set(free).difference(gone), reverse=True)
            self._returned[group] += gone
            found.append(gone)
        groups = zip(pages, self.room, self.touched, strict=True)
        self.total = tuple(max(min(most, room), touched) for most, room, touched in groups)
        return found

    def forget(self) -> None:
        """Give up every page that nobody reads."""
        for group, idle in enumerate(self._idle):
            while idle:
                self._evict(group)

    # Nodes

    def add(self, parent: Node, key: bytes, pages: list[int]) -> Node:
        """A new node; its pages belong to the tree from now on, and nobody refers to them yet.

        The ends of texts that it continues are of no more use and go.
        """
        for other in [c for c in parent.children.values() if len(c.key) < len(key)]:
            if key.startswith(other.key) and not any(other.references):
                self.remove(other)
        node = Node(parent, key, pages)
        parent.children[key] = node
        for group, page in enumerate(pages):
            if page >= 0:
                self._idle[group][node] = None
        return node

    def give(self, node: Node, group: int, page: int) -> None:
        """A page for a node that had lost its own."""
        node.pages[group] = page
        self._idle[group][node] = None

    def rename(self, node: Node, key: bytes) -> None:
        """The end of a text went on: the node holds more tokens now. Nothing may be there under key."""
        assert node.parent is not None
        del node.parent.children[node.key]
        node.key = key
        node.parent.children[key] = node

    def withdraw(self, node: Node) -> None:
        """Take a node out of the tree and leave its pages to the one who refers to it."""
        if node.parent is not None:
            del node.parent.children[node.key]
            node.parent = None
        for group, references in enumerate(node.references):
            if node.pages[group] >= 0 and references == 0:
                self._idle[group].pop(node, None)
                self._drop_page(node, group)
        node.pages = [-1] * len(node.pages)
        node.references = [0] * len(node.pages)

    def remove(self, node: Node) -> None:
        """Take a node and what builds on it out of the tree. Pages that are being read follow when they are
        let go of."""
        if node.parent is not None:
            del node.parent.children[node.key]
        for below in list(node.subtree()):
            below.parent = None
            below.children = {}
            for group, references in enumerate(below.references):
                if below.pages[group] >= 0 and references == 0:
                    del self._idle[group][below]
                    self._drop_page(below, group)

    def ending(self, parent: Node, key: bytes) -> tuple[Node | None, int]:
        """The child that agrees with key for the most tokens, and how many: a page that can be copied.

        Only a child that has the pages of all groups will do.
        """
        best, length = None, 0
        longest = len(key) // TOKEN_BYTES
        for child in parent.children.values():
            while length < longest and child.key.startswith(key[: (length + 1) * TOKEN_BYTES]):
                if min(child.pages) < 0:
                    break
                best, length = child, length + 1
        return best, length

    def _evict(self, group: int) -> None:
        node, _ = self._idle[group].popitem(last=False)
        self.evictions += 1
        self._drop_page(node, group)
        if self._windows[group] == 0:
            self.remove(node)  # without its global page nothing below it can be reached
            return
        while node.parent is not None and not node.children and max(node.pages) < 0:
            parent = node.parent
            self.remove(node)
            node = parent

    def _drop_page(self, node: Node, group: int) -> None:
        self._free[group].append(node.pages[group])
        node.pages[group] = -1
