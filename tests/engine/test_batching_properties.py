"""Random arrivals, departures, failures and limits on the fake core: no page is lost or shared wrongly, every request
ends exactly once and says what it says alone."""

from __future__ import annotations

import asyncio
from collections import Counter

from fake_core import PAGE, FakeProgram
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from step_bench import Bench, pure

from ollamapy.engine.generation import Generation, Item
from ollamapy.types import Delta, EngineError

WINDOWS = [(0,), (0, 3), (8, 0), (5,)]
LONGEST = 60  # tokens of a sequence, more than any here comes to


def outcome(job: Generation) -> list[Delta] | BaseException:
    async def collect() -> list[Delta]:
        deltas = [await job.next()]
        while deltas[-1].done_reason is None:
            deltas.append(await job.next())
        return deltas

    try:
        return asyncio.run(asyncio.wait_for(collect(), 1))
    except EngineError as error:
        return error


class Batching(RuleBasedStateMachine):
    """The lane of one model, driven step by step as the step loop drives it."""

    @initialize(
        windows=st.sampled_from(WINDOWS),
        pages=st.integers(16, 40),
        rows=st.sampled_from([1, 6, 32]),
        most=st.integers(1, 6),
    )
    def begin(self, windows: tuple[int, ...], pages: int, rows: int, most: int) -> None:
        program = FakeProgram(windows=windows)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.loop = loop
        self.bench = Bench((pages,) * len(windows), program, rows, most)
        self.lane, self.blocks, self.runner = self.bench.lane, self.bench.blocks, self.bench.runner
        self.window = windows[0]
        self.room = (pages,) * len(windows)
        self.flying: list[list[Item]] = []
        self.jobs: dict[Generation, list[int]] = {}  # and what each says alone
        self.gone: set[Generation] = set()
        self.failed = False
        self.texts: list[list[int]] = [[1, 2, 3, 4, 5, 6, 7, 8] * 3, [2, 1] * 9]

    @rule(
        text=st.integers(0, 100),
        cut=st.integers(1, 40),
        extra=st.lists(st.integers(1, 4), max_size=6),
        predict=st.integers(1, 14),
        seed=st.integers(0, 2),
        client=st.sampled_from("abc"),
    )
    def arrive(self, text: int, cut: int, extra: list[int], predict: int, seed: int, client: str) -> None:
        prompt = (self.texts[text % len(self.texts)][:cut] + extra)[:40]
        job = self.bench.request(prompt, predict, seed=seed, client=client, ctx=LONGEST)
        self.jobs[job] = pure(prompt, predict, seed, self.window)
        self.texts.append(prompt + self.jobs[job])
        self.lane.add(job)

    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        if self.jobs:
            job = list(self.jobs)[which % len(self.jobs)]
            self.gone.add(job)
            self.lane.cancel(job)

    @rule()
    def plan(self) -> None:
        if len(self.flying) < 2:
            items = self.lane.plan()
            if items:
                self.runner.submit(
                    self.lane.program, self.lane.cache, [item.core for item in items], False, self.lane.copies
                )
                self.lane.copies.clear()
                self.flying.append(items)

    @rule(share=st.floats(0, 1))
    def resize(self, share: float) -> None:
        """Pages go to another model, or come back; memory goes only while no step is in flight."""
        pages = [
            max(low, int(share * room)) for low, room in zip(self.lane.least(LONGEST), self.room, strict=True)
        ]
        if self.flying:
            pages = list(map(max, pages, self.blocks.touched))
        for group, gone in enumerate(self.blocks.resize(pages)):
            assert not (gone and self.flying)
            for page in gone:
                for slot in range(PAGE):
                    self.lane.cache.slots.pop((group, page, slot), None)
        assert all(map(int.__le__, self.blocks.touched, self.blocks.total))

    @precondition(lambda self: self.flying)
    @rule(luck=st.integers(0, 30))
    def land(self, luck: int) -> None:
        self.failed = self.failed or luck > 28
        self.runner.fail_step = lambda step: "no luck" if luck == 30 else None
        self.runner.fail_item = lambda step, item: "bad" if luck == 29 and item == 0 else None
        self.runner.step()
        (result,) = self.runner.drain()
        items = self.flying.pop(0)
        if result.error is None:
            self.lane.finish(items, result)
        else:
            self.lane.failed(items, result.error)

    @invariant()
    def every_page_has_one_place(self) -> None:
        tree = self.blocks.tree
        tables = [job.table for job in self.jobs]
        for group, total in enumerate(tree._fresh):
            nodes = {node for node in tree.root.subtree() if node.pages[group] >= 0}
            own: list[int] = []
            readers: Counter[object] = Counter()
            for table in tables:
                for index, page in table.pages[group].items():
                    node = table.nodes[index] if index < len(table.nodes) else None
                    if index == len(table.nodes):
                        node = table.ending
                    if node is None:
                        own.append(page)
                    else:
                        assert node.pages[group] == page
                        readers[node] += 1
                        nodes.add(node)
            for node in nodes:
                assert node.references[group] == readers[node]
            pages = own + [node.pages[group] for node in nodes] + tree._free[group] + tree._returned[group]
            assert sorted(pages) == list(range(total))
            assert len(tree._idle[group]) == sum(node.references[group] == 0 for node in nodes)

    @invariant()
    def who_waits_holds_nothing(self) -> None:
        for job in self.lane._waiting:
            assert not any(job.table.pages)
        assert self.lane.running <= self.lane._max_sequences

    def teardown(self) -> None:
        if not hasattr(self, "lane"):
            return
        for _ in range(5000):
            self.plan()
            if not self.flying:
                break
            self.land(0)
        assert (self.lane.running, self.lane.waiting) == (0, 0)
        assert self.blocks.available == self.blocks.total
        self.blocks.tree.forget()
        assert self.blocks.free == self.blocks.total
        for job, want in self.jobs.items():
            assert job.finished
            if job in self.gone:
                continue
            end = outcome(job)
            if isinstance(end, EngineError):
                assert self.failed
            else:
                assert not isinstance(end, BaseException)
                assert [token for delta in end for token in delta.tokens] == want
                assert not job._deltas
        self.runner.close()
        self.loop.close()


TestBatching = Batching.TestCase
TestBatching.settings = settings(
    max_examples=30, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
