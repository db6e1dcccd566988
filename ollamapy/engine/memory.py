"""How much memory there is, and how a model's KV pages share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

# Part of the memory available after a model's weights are loaded that its KV pages may take. They are taken
# from the system as they are used; the other half is for further models and everybody else.
KV_SHARE = 0.5

# What a model takes besides its weights, which need as much as their file: scratch, and KV pages for one request.
SCRATCH = 128 << 20

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


def plan_pages(
    groups: Sequence[Group], budget: int, context: int, rows: int, sequences: int, page_tokens: int
) -> list[int]:
    """Pages for each layer group within budget bytes.

    A pool is never larger than sequences of context tokens each can fill when they are computed rows at a
    time: a group with a window needs no more than the window. Raises MemoryError when not even a short text
    would fit."""
    most = []
    for group in groups:
        each = -(-context // page_tokens)
        if group.window:
            each = min(each, -(-(group.window + rows) // page_tokens) + 1)
        most.append(each * sequences)

    def cost(blocks: int) -> int:
        return sum(g.page_bytes * min(blocks, m) for g, m in zip(groups, most, strict=True))

    low, high = 0, max(most)
    while low < high:  # the largest number of blocks that the budget pays for
        middle = (low + high + 1) // 2
        if cost(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    if low * page_tokens < min(context, LEAST_TOKENS):
        raise MemoryError(f"{budget >> 20} MiB are not enough for the KV cache")
    return [min(low, m) for m in most]


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
