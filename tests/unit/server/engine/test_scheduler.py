"""The scheduler against a cache without llama.cpp: whatever comes, cells suffice and everybody ends."""

from __future__ import annotations

import random

import pytest
from tests.unit.server.engine.bench import Bench, Everybody, FixedCost, Guesses, big, counts

from llamaleon_server.engine.scheduling.scheduler import Rejected
from llamaleon_server.engine.sequence import State

CELLS, CONTEXT = 64, 40


# ---------------------------------------------------------------- what a pass computes


def test_decoding_comes_before_prompts_and_prompts_come_in_chunks() -> None:
    bench = Bench()
    bench.add(1, [1, 2], max_tokens=9)
    bench.step()
    bench.add(2, list(range(20)), max_tokens=5)
    assert counts(bench.step()) == [(1, 1, 1), (2, 7, 0)]
    bench.step()
    assert counts(bench.step()) == [(1, 1, 1), (2, 6, 1)]


def chunks_beside_streams(bench: Bench, streams: int = 4) -> list[int]:
    """Prompt tokens of each pass while a long prompt is read, `streams` decoding."""
    for number in range(streams):
        bench.add(number, [number, 7], max_tokens=500)
    bench.step()
    bench.add(99, list(range(1000, 2500)), max_tokens=4)
    found = []
    while (late := bench.scheduler.find(99)) is not None and late.generated == 0:
        spans = bench.step()
        assert [span.sequence.id for span in spans[:streams]] == list(range(streams)), "no stream is left out"
        found.append(sum(span.count for span in spans[streams:]))
    assert sum(found) == 1500
    return found


def test_beside_streams_a_prompt_takes_what_the_target_allows() -> None:
    # 20 ms and 2 ms a token: 0.25 s are 115 tokens, four of streams; a whole number of tiles is 112.
    found = chunks_beside_streams(big(FixedCost(0.02, 0.002)))
    assert set(found[:-1]) == {108}


def test_on_a_slow_machine_a_prompt_still_progresses() -> None:
    assert set(chunks_beside_streams(big(FixedCost(1.0, 0.5)))[:-1]) == {16}


def test_before_anything_is_known_chunks_are_small() -> None:
    assert set(chunks_beside_streams(big())[:-1]) == {60}


def test_on_a_fast_machine_the_batch_is_the_limit() -> None:
    assert set(chunks_beside_streams(big(FixedCost(0.001, 1e-6)))[:-1]) == {508}


def test_nothing_beyond_what_was_seen_is_jumped_to() -> None:
    """A model that has only seen single tokens knows nothing of large batches: it doubles."""
    cost = FixedCost(0.001, 0.0)
    cost.largest_tokens = 5
    assert chunks_beside_streams(big(cost))[0] == 60
    cost.largest_tokens = 100
    assert chunks_beside_streams(big(cost))[0] == 188


def test_without_streams_a_prompt_takes_the_whole_pass() -> None:
    bench = big(FixedCost(1.0, 1.0))
    bench.add(1, list(range(1300)), max_tokens=1)
    assert [spans[0].count for spans in bench.run()] == [512, 512, 276]


def test_scored_prompts_count_their_rows_of_logits() -> None:
    bench = big(FixedCost(0.0, 0.001, 0.003))
    bench.add(1, [1], max_tokens=500)
    bench.step()
    bench.add(2, list(range(100)), max_tokens=1, prompt_logprobs=0)
    bench.add(3, [*range(500, 600)], max_tokens=1)
    (_, scored, *_) = bench.step()
    assert (scored.sequence.id, scored.count, scored.outputs) == (2, 47, 47)


# ---------------------------------------------------------------- in


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


def test_a_prefix_is_not_evicted_for_a_request_that_does_not_fit_anyway() -> None:
    bench = Bench()
    bench.add(1, [1] * 10, max_tokens=1)
    bench.run()
    bench.add(2, [2] * 10, max_tokens=30)
    bench.step()
    bench.add(3, [3] * 10, max_tokens=30)
    bench.step()
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 1)
    assert len(bench.prefixes) == 1


def test_smaller_requests_of_others_pass_one_that_does_not_fit_but_not_for_ever() -> None:
    bench = Bench(policy=Everybody())
    bench.add(1, [1] * 10, adapter="a", max_tokens=20)
    bench.step()
    bench.add(2, [2] * 20, adapter="b", max_tokens=20)  # 40 of 64 cells, and 30 are promised
    bench.add(3, [3], adapter="b", max_tokens=2)
    started: list[int] = []
    for number in range(10, 100):
        bench.add(number, [number, 1, 2], adapter=f"c{number}", max_tokens=9)
        started += [span.sequence.id for span in bench.step() if span.start == 0]
    assert 10 in started, "a smaller one of others passes"
    assert 3 not in started[: started.index(2)], "one of the same adapter does not"
    overtook = started.index(2)
    assert 2 <= overtook <= 32
    bench.run()


# ---------------------------------------------------------------- sharing


def test_a_running_prompt_is_shared() -> None:
    bench = Bench()
    bench.add(1, list(range(8)), max_tokens=20)
    bench.step()
    bench.add(2, [*range(8), 50, 51], max_tokens=20)
    (first, second) = bench.step()
    assert (first.count, second.start, second.count) == (1, 8, 2)
    assert bench.kv.free == CELLS - 9 - 2


def test_a_common_beginning_is_computed_once() -> None:
    bench = big()
    system = list(range(1000, 2000))
    for number in range(100):
        bench.add(number, [*system, number, 1], max_tokens=3)
    bench.run()
    assert bench.tokens_computed == len(system) + 100 * (2 + 2)
    status = bench.prefixes.status()
    assert (status.hits, status.misses) == (99, 1)
    assert (status.hit_tokens, status.prompt_tokens) == (99 * 1000, 100 * 1002)


def test_answers_to_one_prompt_share_it() -> None:
    bench = big()
    for number in range(5):
        bench.add(number, list(range(700)), max_tokens=3)
    bench.run()
    assert bench.tokens_computed == 700 + 4 * 1 + 5 * 2


def test_who_waits_for_a_beginning_lets_others_pass_and_gets_over_its_loss() -> None:
    bench = big()
    system = list(range(1000, 2500))
    bench.add(1, [*system, 1], max_tokens=3)
    bench.add(2, [*system, 2], max_tokens=3)
    bench.add(3, [*range(300)], max_tokens=3)
    bench.add(4, [*system, 4], adapter="a", max_tokens=3)
    assert [sequence.id for sequence in bench.scheduler.sequences() if sequence.slot is not None] == []
    bench.step()
    running = {s.id for s in bench.scheduler.sequences() if s.state is State.RUNNING}
    assert running == {1, 3, 4}, "another's adapter makes another beginning"
    first = bench.scheduler.find(1)
    assert first is not None
    bench.scheduler.remove(first, keep_cells=False)
    bench.step()
    second = bench.scheduler.find(2)
    assert second is not None
    assert second.state is State.RUNNING
    bench.run()


def test_a_short_common_beginning_is_not_waited_for() -> None:
    bench = big()
    for number in range(3):
        bench.add(number, [*range(31), 100 + number], max_tokens=3)
    assert len(bench.step()) == 3


def test_a_state_that_cannot_be_cut_is_only_continued() -> None:
    bench = Bench(whole_only=True)
    bench.add(1, [1, 2, 3, 4], max_tokens=2)
    bench.run()
    bench.add(2, [1, 2, 3, 9], max_tokens=1)
    assert bench.step()[0].start == 0
    bench.add(3, [1, 2, 3, 4, 4, 9], max_tokens=1)
    assert bench.step()[0].start == 5


def test_prefixes_together_are_no_longer_than_a_context() -> None:
    bench = Bench(cells=500)
    for number in range(6):
        bench.add(number, [number, *range(14)], max_tokens=1)
        bench.run()
        assert bench.prefixes.tokens <= CONTEXT
    assert len(bench.prefixes) == 2
    bench.add(9, [5, *range(14)], max_tokens=1)
    assert bench.step()[0].start == 14, "the latest is still there"


# ---------------------------------------------------------------- whatever comes


def test_open_ended_requests_give_way_and_end_all_the_same() -> None:
    """More is admitted than can end at once: the youngest starts over later."""
    bench = Bench(cells=1100, context=1000, batch=64)
    for number in range(3):
        bench.add(number, [number, 1, 2], max_tokens=None)
    ended: dict[int, int] = {}
    put_back = False
    while bench.scheduler.has_work:
        for span in bench.step():
            if span.sequence.state is State.FINISHED:
                ended[span.sequence.id] = len(span.sequence.tokens)
        put_back |= any(s.state is State.WAITING and s.generated for s in bench.scheduler.sequences())
    assert put_back
    assert ended == {0: 1000, 1: 1000, 2: 1000}


@pytest.mark.parametrize("ram_bytes", [0, 100_000])
def test_who_gave_way_goes_on_where_it_was_if_there_is_ram(ram_bytes: int) -> None:
    bench = Bench(cells=1100, context=1000, batch=64, ram_bytes=ram_bytes)
    for number in range(3):
        bench.add(number, [number, 1, 2], max_tokens=None)
    bench.run()
    again = bench.tokens_computed - 3 * 999
    assert (again > 100) == (ram_bytes == 0)
    assert (bench.prefixes.status().restored > 0) == (ram_bytes > 0)


def test_all_can_start_over_at_any_time() -> None:
    bench = Bench(ram_bytes=10_000, policy=Everybody())
    for number in range(9):
        bench.add(number, [number % 3] * 9, adapter="ab"[number % 2], max_tokens=9)
        bench.step()
        if number % 2:
            bench.scheduler.start_over()
            assert (bench.kv.free, bench.scheduler.running) == (bench.kv.total, 0)
            assert (len(bench.prefixes), len(bench.prefixes.store)) == (0, 0)
    bench.run()
    assert bench.prefixes.status().hits + bench.prefixes.status().misses == 9


@pytest.mark.parametrize("seed", range(24))
def test_random_work_always_ends_and_gives_all_cells_back(seed: int) -> None:
    dice, grammar = random.Random(seed), random.Random(seed + 1)
    whole_only = dice.random() < 0.3
    window = 0 if whole_only else dice.choice([0, 0, 5])
    bench = Bench(
        window=window,
        cells=dice.choice([CONTEXT, CELLS, 200]),
        whole_only=whole_only,
        ram_bytes=dice.choice([0, 300, 10_000]),
        policy=Everybody() if dice.random() < 0.5 else None,
        speculator=Guesses(dice.randrange(4)) if not whole_only and not window else None,
        forced=lambda: grammar.choice([0, 0, 1, 5, 12]) if seed % 2 else 0,
    )
    for number in range(40):
        prompt = [dice.randrange(2) for _ in range(dice.randint(1, 39))]
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
    bench.run()
    while bench.prefixes.evict():
        pass
    assert bench.kv.free == bench.kv.total
    assert not any(bench.memory.cells.values())
