"""Fairness between adapters, and first come first served where there is one."""

from __future__ import annotations

from tests.unit.server.engine.bench import Bench, Everybody, FixedCost

from llamaleon_server.engine.scheduling.scheduler import Span


def bench_of(parallel: int, **options: object) -> Bench:
    defaults: dict[str, object] = {"cells": 100_000, "context": 9000, "batch": 512, "spare": 0}
    return Bench(parallel=parallel, policy=Everybody(), **(defaults | options))  # type: ignore[arg-type]  # options of many types


def starts(steps: list[tuple[Span, ...]]) -> list[int]:
    """Requests in the order in which they were started."""
    return [span.sequence.id for spans in steps for span in spans if span.start == 0]


def test_one_set_alone_is_served_first_come_first_served() -> None:
    bench = bench_of(2)
    for number in range(30):
        bench.add(number, [number] * (1 + number * 7 % 40), adapter="a", max_tokens=1 + number * 5 % 9)
    assert starts(bench.run()) == list(range(30))


def test_a_hundred_requests_of_one_do_not_hold_up_the_one_of_another() -> None:
    bench = bench_of(4)
    for number in range(100):
        bench.add(number, [number] * 20, adapter="busy", max_tokens=10)
    for _ in range(7):
        bench.step()
    bench.add(500, [5] * 20, adapter="quiet", max_tokens=10)
    steps = [starts([spans]) for spans in bench.run()]
    first = next(started for started in steps if started)
    assert 500 in first, "it has the next number that comes free"


def test_requests_that_come_together_take_turns() -> None:
    bench = bench_of(4)
    for number in range(60):
        bench.add(number, [number] * 20, adapter="abc"[number // 20], max_tokens=5)
    order = starts(bench.run())
    for end in range(6, 60, 6):
        served = [sum(number // 20 == group for number in order[:end]) for group in range(3)]
        assert max(served) - min(served) <= 2, served


def test_who_asks_for_longer_answers_gets_fewer() -> None:
    """What counts are tokens, not requests."""
    bench = bench_of(1)
    for number in range(60):
        long = number % 2 == 0
        bench.add(number, [number] * 10, adapter="long" if long else "short", max_tokens=40 if long else 5)
    order = starts(bench.run())[:30]
    short = sum(number % 2 for number in order)
    assert 3 <= short / (30 - short) <= 6


def test_a_long_prompt_shares_the_passes_with_the_prompt_of_another() -> None:
    bench = bench_of(4)
    bench.add(1, list(range(8000)), adapter="a", max_tokens=1)
    bench.step()
    bench.add(2, [1] * 300, adapter="b", max_tokens=1)
    bench.add(3, [1] * 300, adapter="a", max_tokens=1)
    steps = bench.run()
    ended = {span.sequence.id: number for number, spans in enumerate(steps) for span in spans}
    assert ended[2] <= 2, "the prompt of another adapter does not wait for the long one"
    assert ended[3] >= ended[1], "that of the same adapter does"


def test_an_idle_set_saves_nothing_up() -> None:
    """What it did not ask for while it was away it cannot claim when it comes."""
    bench = bench_of(2)
    for number in range(100):
        bench.add(number, [number] * 20, adapter="a", max_tokens=5)
    for _ in range(60):
        bench.step()
    for number in range(100, 200):
        bench.add(number, [number] * 20, adapter="b", max_tokens=5)
    order = starts(bench.run())[:40]
    assert 16 <= sum(number >= 100 for number in order) <= 24


def test_nobody_starves_beside_a_crowd_of_newcomers() -> None:
    bench = bench_of(2)
    bench.add(0, [1] * 50, adapter="patient", max_tokens=5)
    bench.add(1, [2] * 50, adapter="patient", max_tokens=5)
    bench.add(2, [3] * 50, adapter="patient", max_tokens=5)
    order: list[int] = []
    for number in range(10, 300):
        bench.add(number, [number] * 5, adapter=f"new{number}", max_tokens=3)
        order += starts([bench.step()])
    assert order.index(2) <= 2 + 2 * 32 + 2


def test_sets_that_are_gone_are_forgotten() -> None:
    bench = bench_of(4)
    for number in range(50):
        sequence = bench.add(number, [number] * 5, adapter=f"a{number}", max_tokens=2)
        if number % 3 == 0:
            bench.scheduler.remove(sequence)
    assert len(bench.scheduler.fair) == 33
    bench.run()
    assert len(bench.scheduler.fair) == 0


def test_a_prompt_put_back_is_first_again() -> None:
    """Requests of one set keep the order of their arrival through a lack of cells."""
    bench = bench_of(3, cells=1040, context=1000, batch=64, cost=FixedCost(0.0, 0.0))
    for number in range(5):
        bench.add(number, [number] * 3, max_tokens=None)
    order: list[int] = []
    while bench.scheduler.has_work:
        for span in bench.step():
            if span.sequence.slot is None:
                order.append(span.sequence.id)
    assert order == [0, 1, 2, 3, 4]
