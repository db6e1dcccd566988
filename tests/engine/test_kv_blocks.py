"""Pages: who gets which, when a window lets go of them, what comes back."""

from __future__ import annotations

from fake_core import FakeSequence

from ollamapy.engine.blocks import BlockManager


def table_of(blocks: BlockManager, sequence: FakeSequence | None = None):
    return blocks.table(sequence or FakeSequence([]))


def test_pages_are_taken_as_they_are_needed_and_come_back() -> None:
    blocks = BlockManager([0], [4], page_tokens=4)
    sequence = FakeSequence([])
    table = table_of(blocks, sequence)
    assert blocks.grow(table, 5)
    assert sequence.pages == {(0, 0): 0, (0, 1): 1}
    assert blocks.grow(table, 8) and blocks.free == (2,)
    assert blocks.grow(table, 9) and blocks.free == (1,)
    blocks.release(table)
    assert blocks.free == (4,) and sequence.pages == {}
    assert blocks.touched == (3,)


def test_growing_is_all_or_nothing() -> None:
    blocks = BlockManager([0, 8], [8, 2], page_tokens=4)
    table = table_of(blocks)
    assert not blocks.grow(table, 12)
    assert blocks.free == (8, 2)
    assert blocks.grow(table, 8)


def test_a_used_page_is_used_again_before_a_fresh_one_is_touched() -> None:
    blocks = BlockManager([0], [100], page_tokens=4)
    for _ in range(10):
        table = table_of(blocks)
        blocks.grow(table, 12)
        blocks.release(table)
    assert blocks.touched == (3,)


def test_a_window_lets_go_of_what_no_later_row_sees() -> None:
    blocks = BlockManager([0, 8], [10, 10], page_tokens=4)
    sequence = FakeSequence([])
    table = table_of(blocks, sequence)
    blocks.grow(table, 16)
    blocks.drop(table, 10)  # row 10 sees positions 3 to 10
    assert (1, 0) in sequence.pages
    blocks.drop(table, 11)  # row 11 sees positions 4 to 11
    assert sorted(sequence.pages) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert blocks.free == (6, 7)
    assert blocks.grow(table, 20) and (1, 4) in sequence.pages
    blocks.release(table)
    assert blocks.free == (10, 10)


def test_need_and_capacity_know_the_window() -> None:
    blocks = BlockManager([0, 8], [100, 6], page_tokens=4)
    assert blocks.need(1000, rows=4) == (250, 4)
    assert blocks.need(5, rows=4) == (2, 2)
    assert blocks.capacity(rows=4) == 400
    assert blocks.capacity(rows=20) == 24  # eight pages for the window and a chunk are not there
