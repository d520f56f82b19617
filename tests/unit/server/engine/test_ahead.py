"""Passes that compute more than one token of a stream: what was guessed, and what a grammar forces."""

from __future__ import annotations

from tests.unit.server.engine.bench import Bench, FixedCost, Guesses, big, counts

# ---------------------------------------------------------------- guesses


def test_guesses_go_along_and_save_passes() -> None:
    bench = big(speculator=Guesses(3))
    bench.add(1, [1, 2], max_tokens=10)
    steps = bench.run()
    assert [counts(spans) for spans in steps] == [
        [(1, 2, 1)],
        [(1, 4, 4)],
        [(1, 4, 4)],
        [(1, 1, 1)],
    ], "the last token need not be guessed"
    assert steps[1][0].draft == (3, 4, 5)


def test_guesses_leave_room_for_everybody() -> None:
    guesses = Guesses(5)
    bench = Bench(speculator=guesses)  # 8 tokens a pass
    for number in range(3):
        bench.add(number, [number], max_tokens=12)
    bench.step()
    spans = bench.step()
    assert guesses.asked == [(3, 5, 5)]
    assert [span.count for span in spans] == [6, 1, 1]


def test_guesses_do_not_starve_prompts() -> None:
    guesses = Guesses(100)
    bench = big(batch=32, speculator=guesses, cost=FixedCost(1.0, 1.0))
    bench.add(1, [1], max_tokens=3000)
    bench.step()
    bench.add(2, list(range(100)), max_tokens=1)
    spans = bench.step()
    assert guesses.asked == [(1, 32 - 1 - 16, 32 - 1 - 1)]
    assert [span.count for span in spans] == [16, 16]


def test_guesses_are_bounded_by_free_cells() -> None:
    guesses = Guesses(30)
    bench = Bench(cells=12, context=12, batch=12, parallel=1, speculator=guesses)
    bench.add(1, [1] * 5)
    bench.run()
    assert guesses.asked[0] == (1, 6, 11)


# ---------------------------------------------------------------- what a grammar forces


def test_forced_tokens_take_one_pass_and_one_row_of_logits() -> None:
    bench = Bench(forced=lambda: 3)
    bench.add(1, [1, 2], max_tokens=9)
    steps = [counts(spans) for spans in bench.run()]
    assert steps == [[(1, 2, 1)], [(1, 4, 1)], [(1, 4, 1)]]


def test_forced_tokens_leave_every_stream_its_own() -> None:
    bench = Bench(cells=200, forced=lambda: 30)  # 8 tokens a pass
    for number in range(3):
        bench.add(number, [number], max_tokens=36)
    bench.step()
    assert counts(bench.step()) == [(0, 6, 0), (1, 1, 0), (2, 1, 0)]
    assert counts(bench.step()) == [(0, 6, 0), (1, 1, 0), (2, 1, 0)]
    bench.run()


def test_forced_tokens_come_before_prompts_and_are_not_guessed() -> None:
    guesses = Guesses(9)
    bench = Bench(speculator=guesses, forced=lambda: 4, batch=12)
    bench.add(1, [1, 2], max_tokens=30)
    bench.step()
    bench.add(2, list(range(20)), max_tokens=5)
    assert counts(bench.step()) == [(1, 5, 1), (2, 7, 0)]
    assert guesses.asked == []
