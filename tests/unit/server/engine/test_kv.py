"""The cell ledger against a model of what llama.cpp does: cells live while a sequence holds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.engine.bench import Memory

from llamaleon_server.engine.cache.kv import CellLedger, KvCache


@given(st.lists(st.tuples(st.sampled_from("esct"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))))
def test_the_ledger_counts_cells_that_somebody_holds(steps: list[tuple[str, int, int, int]]) -> None:
    ledger, held, fresh = CellLedger(30), dict[int, list[int]](), iter(range(10_000))
    for action, one, other, count in steps:
        mine = held.get(one, [])
        if action == "e" and count <= ledger.free:
            ledger.extend(one, count)
            held[one] = [*mine, *(next(fresh) for _ in range(count))]
        elif action == "s" and mine and not held.get(other):
            ledger.share(one, other, count)
            held[other] = mine[:count]
        elif action == "c":
            ledger.truncate(one)
            held[one] = []
        elif action == "t":
            ledger.truncate(one, count)
            held[one] = mine[:count]
        used = {cell for cells in held.values() for cell in cells}
        assert ledger.free == 30 - len(used)
        assert [ledger.length(sequence) for sequence in range(4)] == [len(held.get(s, [])) for s in range(4)]
        some, others = ({c for s in group for c in held.get(s, [])} for group in ((0, 1), (2, 3)))
        assert ledger.held((0, 1)) == len(some)
        assert ledger.exclusive((0, 1)) == len(some - others)


def test_more_than_there_is_cannot_be_taken() -> None:
    ledger = CellLedger(4)
    ledger.extend(0, 3)
    with pytest.raises(ValueError, match="2 cells asked for, 1 are free"):
        ledger.extend(1, 2)


class WindowMemory(Memory):
    """Keeps only the last `window` positions of a sequence, as a sliding-window cache does."""

    def __init__(self, window: int, length: int) -> None:
        super().__init__()
        self.window, self.last = window, {0: length - 1}

    def remove(self, sequence: int, start: int = 0) -> bool:
        self.last.pop(sequence, None)
        return True

    def copy(self, source: int, target: int, end: int) -> None:
        first = max(0, self.last[source] - self.window + 1)
        if end > first:
            self.last[target] = end - 1

    def positions(self, sequence: int) -> tuple[int, int]:
        last = self.last.get(sequence, -1)
        return (max(0, self.last[0] - self.window + 1), last) if last >= 0 else (-1, -1)


@pytest.mark.parametrize(("count", "shared"), [(20, True), (19, False), (5, False)])
def test_a_window_that_has_moved_on_is_not_shared(count: int, shared: bool) -> None:
    memory = WindowMemory(window=8, length=20)
    cache = KvCache(memory, 100, 4, window=8)
    first = cache.open()
    memory.last[first] = memory.last.pop(0)
    memory.last[0] = 19
    cache.extend(first, 20)
    second = cache.open()
    assert cache.share(first, second, count) is shared
    assert cache.length(second) == (count if shared else 0)
    assert cache.free == 80


def test_a_cut_gives_cells_back_that_nobody_else_holds() -> None:
    memory = Memory()
    cache = KvCache(memory, 100, 4)
    first, second = cache.open(), cache.open()
    memory.cells[first] = [((), token) for token in range(20)]
    cache.extend(first, 20)
    assert cache.share(first, second, 15)
    assert cache.cut(first, 5)
    assert (cache.length(first), cache.length(second), cache.free) == (5, 15, 85)
    assert cache.cut(second, 0)
    assert (len(memory.cells[first]), len(memory.cells[second]), cache.free) == (5, 0, 95)


def test_a_memory_that_cannot_be_cut_stays_as_it_is() -> None:
    memory = Memory()
    memory.cuts = False
    cache = KvCache(memory, 100, 4)
    only = cache.open()
    memory.cells[only] = [((), 7)] * 20
    cache.extend(only, 20)
    assert not cache.cut(only, 5)
    assert (cache.length(only), len(memory.cells[only])) == (20, 20)


def test_what_was_saved_comes_back_as_far_as_asked_for() -> None:
    memory = Memory()
    cache = KvCache(memory, 100, 4)
    first = cache.open()
    memory.cells[first] = [((), token) for token in range(60)]
    cache.extend(first, 60)
    state = cache.save(first)
    second = cache.open()
    assert not cache.restore(second, state, 60, 30), "it needs all cells for a moment"
    cache.close(first)
    assert cache.restore(second, state, 60, 30)
    assert memory.cells[second] == [((), token) for token in range(30)]
    assert (cache.length(second), cache.free) == (30, 70)
