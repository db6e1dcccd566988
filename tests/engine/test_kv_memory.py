"""How much memory there is, and how layer groups share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ollamapy.engine.memory import available_memory, pages_needed, plan_pages

GIB = 1 << 30


@dataclass
class Group:
    window: int
    page_bytes: int


def meminfo(folder: Path, available: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal: 9 kB\nMemAvailable: {available >> 10} kB\n")
    return path


def test_memory_is_what_the_system_and_the_cgroup_leave(tmp_path: Path) -> None:
    info = meminfo(tmp_path, 8 * GIB)
    assert available_memory(info, tmp_path) == 8 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    assert available_memory(info, tmp_path) == GIB
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2 * GIB}\n")
    assert available_memory(info, tmp_path) == 3 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(info, tmp_path) == 8 * GIB


def test_memory_in_an_old_cgroup(tmp_path: Path) -> None:
    info = meminfo(tmp_path, 8 * GIB)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(GIB))
    (tmp_path / "memory" / "memory.stat").write_text(f"total_inactive_file {GIB // 2}\n")
    assert available_memory(info, tmp_path) == GIB + GIB // 2


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "none", tmp_path) == 0


def test_a_group_takes_what_the_budget_pays_for() -> None:
    assert plan_pages([Group(0, 1000)], 100_000, [1], [500]) == [100]
    assert plan_pages([Group(0, 1000)], 10**12, [1], [40]) == [40]


def test_a_window_leaves_its_share_to_the_global_layers() -> None:
    groups = [Group(512, 5000), Group(0, 1000)]
    assert pages_needed(512, 32_768, 256, 32) == 25  # the window, a chunk and one page more as it slides
    assert pages_needed(512, 100, 256, 32) == 4
    assert plan_pages(groups, 4_000_000, [1, 1], [100, 4096]) == [100, 3500]


def test_the_least_is_there_whatever_it_costs() -> None:
    groups = [Group(512, 5000), Group(0, 1000)]
    assert plan_pages(groups, 400_000, [25, 50], [100, 4096]) == [66, 66]
    assert plan_pages(groups, 300_000, [25, 200], [100, 4096]) == [25, 200]
    assert plan_pages(groups, 5000, [25, 50], [100, 4096]) == [25, 50]
