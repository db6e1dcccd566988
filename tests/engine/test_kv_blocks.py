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


def kept(blocks: BlockManager, tokens: list[int]) -> None:
    """A text that was computed and is left to whoever asks for it next."""
    table = blocks.table(FakeSequence(tokens), tokens)
    assert blocks.grow(table, len(tokens))
    blocks.release(table, len(tokens))


def test_fewer_pages_are_free_ones_first_then_those_idle_longest_never_used_ones() -> None:
    blocks = BlockManager([0], [10], page_tokens=4)
    busy = table_of(blocks)
    blocks.grow(busy, 8)
    kept(blocks, [1] * 8)
    kept(blocks, [2] * 8)
    unused = table_of(blocks)
    blocks.grow(unused, 8)
    blocks.release(unused)
    assert (blocks.touched, blocks.used, blocks.tree.idle) == ((8,), (2,), (4,))
    assert blocks.resize([9]) == [[]] and blocks.free == (3,)  # a promise less
    assert blocks.resize([6]) == [[7, 6]] and blocks.touched == (6,)
    assert blocks.resize([5]) == [[3]]  # the end of the older text
    assert len(blocks.resize([1])[0]) == 3
    assert blocks.total == blocks.touched == blocks.used == (2,)
    assert blocks.available == (0,) and not blocks.grow(busy, 12)
    assert blocks.resize([20]) == [[]] and blocks.total == (10,)  # no more than there is room for
    assert blocks.grow(busy, 40)
    assert sorted(busy.pages[0].values()) == list(range(10))


def test_a_page_that_is_to_be_copied_keeps_its_memory() -> None:
    blocks = BlockManager([0], [10], page_tokens=4)
    kept(blocks, [1, 2, 3, 4])
    tokens = [1, 2, 3, 9, 9]
    table = blocks.table(FakeSequence(tokens), tokens)
    assert blocks.attach(table, blocks.match(table)) == 3
    assert blocks.copies == [(0, 0, 1)]
    assert blocks.resize([1]) == [[]] and blocks.tree.idle == (0,)
    blocks.copies.clear()  # the step is on its way
    assert blocks.resize([1]) == [[0]]
