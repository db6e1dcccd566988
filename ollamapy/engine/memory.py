"""How much memory there is, and how a model's KV pages share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

# Part of the free memory that is promised to the KV pages of the loaded models, in equal parts, whenever one has come
# or gone. They take it from the system as they are used; the other half is for further models and everybody else.
KV_SHARE = 0.5

LEAST_TOKENS = 256  # a pool for less is no use


class Group(Protocol):
    @property
    def window(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...


def available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Bytes that this process may still take: the system's MemAvailable, or less in a memory cgroup (v2,
    else v1).

    0 when the system does not tell.
    """
    available = 0
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = _number(cgroup / limit), _number(cgroup / usage)
        if most is not None and used is not None:
            # The page cache counts as used and goes when it is needed.
            used -= _statistic((cgroup / limit).with_name("memory.stat"), reclaimable)
            available = max(0, min(available, most - used))
    return available


def pages_needed(window: int, tokens: int, rows: int, page_tokens: int) -> int:
    """Pages of a layer group that a sequence of tokens holds at most when it is computed rows at a time: one
    with a window, which 0 is not, needs no more than the window."""
    pages = -(-tokens // page_tokens)
    return pages if window == 0 else min(pages, -(-(window + rows) // page_tokens) + 1)


def kv_bytes(groups: Sequence[Group], pages: Sequence[int]) -> int:
    """Bytes of so many pages of each layer group."""
    return sum(group.page_bytes * count for group, count in zip(groups, pages, strict=True))


def plan_pages(groups: Sequence[Group], budget: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Pages for each layer group that budget bytes pay for: of each as many, no fewer than least, whatever that
    costs, and no more than most."""

    def pages(count: int) -> list[int]:
        return [min(max(count, low), high) for low, high in zip(least, most, strict=True)]

    low, high = 0, max(most)
    while low < high:  # the largest count that the budget pays for
        middle = (low + high + 1) // 2
        if kv_bytes(groups, pages(middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    return pages(low)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file; None for "max" and for a file that is not there."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _statistic(path: Path, name: str) -> int:
    for line in _lines(path):
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0
