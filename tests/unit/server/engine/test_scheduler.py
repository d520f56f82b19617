"""The scheduler against a cache without llama.cpp: whatever comes, cells suffice and everybody ends."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llamaleon_server.engine.grouping import TakeTurns
from llamaleon_server.engine.kv import KvCache
from llamaleon_server.engine.prefix import PrefixCache
from llamaleon_server.engine.protocol import AdapterUse, Generate
from llamaleon_server.engine.scheduler import Limits, Rejected, Scheduler, Span
from llamaleon_server.engine.sequence import State

PARALLEL, SPARE, CELLS, CONTEXT, BATCH = 3, 4, 64, 40, 8


class Memory:
    """Lengths of sequences, as llama.cpp would report them."""

    def __init__(self) -> None:
        self.length: dict[int, int] = {}

    def remove(self, sequence: int, start: int = 0) -> bool:
        self.length[sequence] = min(start, self.length.get(sequence, 0))
        return True

    def copy(self, source: int, target: int, end: int) -> None:
        assert self.length[source] >= end
        assert self.length.get(target, 0) == 0
        self.length[target] = end

    def positions(self, sequence: int) -> tuple[int, int]:
        length = self.length.get(sequence, 0)
        return (0, length - 1) if length else (-1, -1)


class Bench:
    """A scheduler and the part of the engine that follows a step."""

    def __init__(self, *, cells: int = CELLS, waiting: int = 99, whole_only: bool = False) -> None:
        self.memory = Memory()
        self.kv = KvCache(self.memory, cells, PARALLEL + SPARE)
        self.prefixes = PrefixCache(self.kv, limit=SPARE, max_tokens=CONTEXT, whole_only=whole_only)
        limits = Limits(
            context_tokens=CONTEXT, running=PARALLEL, waiting=waiting, batch_tokens=BATCH, output_rows=BATCH
        )
        self.scheduler = Scheduler(self.kv, self.prefixes, limits, TakeTurns())

    def add(self, number: int, prompt: list[int], *, adapter: str = "", **fields: Any) -> None:
        uses = (AdapterUse(adapter),) if adapter else ()
        self.scheduler.add(Generate(id=number, prompt=prompt, adapters=uses, **fields), prompt)

    def step(self) -> tuple[Span, ...]:
        """Run one step as the engine does; every drawn token is the sequence's length."""
        spans = self.scheduler.schedule()
        assert sum(span.count for span in spans) <= min(BATCH, self.kv.free)
        assert len({span.adapters for span in spans}) <= 1
        for span in spans:
            sequence = span.sequence
            assert sequence.state is State.RUNNING
            assert sequence.slot is not None
            assert self.memory.length.get(sequence.slot, 0) == span.start == sequence.computed
            self.memory.length[sequence.slot] = span.start + span.count
            self.kv.extend(sequence.slot, span.count)
            sequence.computed += span.count
        for span in spans:
            if span.outputs and span.reaches_end:
                span.sequence.tokens.append(len(span.sequence.tokens))
                if span.sequence.generated >= span.sequence.max_new:
                    self.scheduler.remove(span.sequence)
        return spans


def test_decoding_comes_before_prompts_and_prompts_come_in_chunks() -> None:
    bench = Bench()
    bench.add(1, [1, 2], max_tokens=9)
    bench.step()
    bench.add(2, list(range(20)), max_tokens=5)
    spans = bench.step()
    assert [(span.sequence.id, span.count, span.outputs) for span in spans] == [(1, 1, 1), (2, 7, 0)]
    bench.step()
    assert [(span.sequence.id, span.count, span.outputs) for span in bench.step()] == [(1, 1, 1), (2, 6, 1)]


def test_what_cannot_be_queued_is_rejected() -> None:
    bench = Bench(waiting=1)
    with pytest.raises(Rejected, match="40 tokens; the prompt has 40 and one more"):
        bench.add(1, [1] * 40)
    with pytest.raises(Rejected, match="empty"):
        bench.add(1, [])
    bench.add(1, [1] * 40, max_tokens=0)
    with pytest.raises(Rejected, match="1 requests are waiting") as refused:
        bench.add(2, [1])
    assert refused.value.code == "queue_full"


def test_admission_waits_for_cells_that_others_were_promised() -> None:
    bench = Bench()
    bench.add(1, [1] * 10, max_tokens=30)
    bench.add(2, [2] * 10, max_tokens=30)
    bench.step()
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 1)


def test_a_running_prompt_is_shared() -> None:
    bench = Bench()
    bench.add(1, list(range(8)), max_tokens=20)
    bench.step()
    bench.add(2, [*range(8), 50, 51], max_tokens=20)
    (first, second) = bench.step()
    assert (first.count, second.start, second.count) == (1, 8, 2)
    assert bench.kv.free == CELLS - 9 - 2


def test_a_state_that_cannot_be_cut_is_only_continued() -> None:
    bench = Bench(whole_only=True)
    bench.add(1, [1, 2, 3, 4], max_tokens=2)
    while bench.scheduler.has_work:
        bench.step()
    bench.add(2, [1, 2, 3, 9], max_tokens=1)
    assert bench.step()[0].start == 0
    bench.add(3, [1, 2, 3, 4, 4, 9], max_tokens=1)
    assert bench.step()[0].start == 5


def test_prefixes_together_are_no_longer_than_a_context() -> None:
    bench = Bench(cells=500)
    for number in range(6):
        bench.add(number, [number, *range(14)], max_tokens=1)
        while bench.scheduler.has_work:
            bench.step()
        assert bench.prefixes.tokens <= CONTEXT
    assert len(bench.prefixes) == 2
    bench.add(9, [5, *range(14)], max_tokens=1)
    assert bench.step()[0].start == 14, "the latest is still there"


def test_open_ended_requests_give_way_and_end_all_the_same() -> None:
    """Without max_tokens more is admitted than can end at once: the youngest starts over later."""
    bench = Bench(cells=CONTEXT + 2)
    for number in range(3):
        bench.add(number, [number, 1, 2], max_tokens=None)
    ended: dict[int, list[int]] = {}
    for _ in range(600):
        for span in bench.step():
            if span.sequence.state is State.FINISHED:
                ended[span.sequence.id] = span.sequence.tokens
    assert not bench.scheduler.has_work
    assert {number: len(tokens) for number, tokens in ended.items()} == {0: CONTEXT, 1: CONTEXT, 2: CONTEXT}


@pytest.mark.parametrize("seed", range(12))
def test_random_work_always_ends_and_gives_all_cells_back(seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench(cells=dice.choice([CONTEXT, CELLS, 200]), whole_only=dice.random() < 0.3)
    for number in range(40):
        prompt = [dice.randrange(2) for _ in range(dice.randint(1, 30))]
        bench.add(
            number,
            prompt,
            adapter=dice.choice(["", "a", "b"]),
            max_tokens=dice.choice([None, 0, 1, 9, 100]),
            prompt_logprobs=dice.choice([None, None, 0]),
        )
        for _ in range(dice.randrange(4)):
            bench.step()
        if dice.random() < 0.1:
            victim = bench.scheduler.find(dice.randrange(number + 1))
            if victim is not None:
                bench.scheduler.remove(victim)
    for _ in range(20_000):
        if not bench.scheduler.has_work:
            break
        bench.step()
    assert not bench.scheduler.has_work
    while bench.prefixes.evict():
        pass
    assert bench.kv.free == bench.kv.total
    assert not any(bench.memory.length.values())
