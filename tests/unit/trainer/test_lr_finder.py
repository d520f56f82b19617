"""The learning-rate finder: its rule on known curves, and in a job, which it leaves as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.unit.trainer.jobs import adapter_weights, events, losses, run_here, write_job

from llamaleon_trainer.lr_finder import LEAST_STEPS, LOWEST_SHARE, choose, diverged, smooth

RATES = [10 ** (-5 + 0.1 * step) for step in range(40)]


def curve(rate: float) -> float:
    """Flat, then steepest at 1e-3, lowest at 1e-2, then rising."""
    x = math.log10(rate)
    fall = 1 / (1 + math.exp(-4 * (x + 3)))
    return 3.0 - fall + max(0.0, x + 2) ** 2


def test_the_steepest_descent_is_found_below_the_lowest_loss() -> None:
    found = choose(RATES, [curve(rate) for rate in RATES], 1.0)
    lowest = min(RATES, key=curve)
    assert found <= lowest / 2
    assert 3e-4 < found < 3e-3


def test_no_more_than_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    """A cliff: the loss falls steepest right before it rises."""
    falling = [3.0 - 0.001 * step * step for step in range(30)]
    rising = [falling[-1] + 0.5 * (step + 1) for step in range(10)]
    averaged = smooth([*falling, *rising])
    lowest = averaged.index(min(averaged))
    assert choose(RATES, [*falling, *rising], 1.0) == pytest.approx(RATES[lowest] / 10)


def test_without_a_descent_the_lowest_rate() -> None:
    assert choose(RATES, [1.0 + 0.1 * step for step in range(40)], 1.0) == RATES[0]
    assert choose(RATES[:1], [1.0], 1.0) == LOWEST_SHARE


def test_averages_do_not_begin_at_zero_and_divergence_is_noticed() -> None:
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert not diverged([2.0, 1.5, 2.5])
    assert diverged([2.0, 1.5, 9.0])


def test_a_job_finds_its_rate_and_begins_as_if_it_had_not_looked(tmp_path: Path) -> None:
    jobs = [tmp_path / name for name in ("first", "again", "given")]
    for job in jobs[:2]:
        write_job(job, epochs=3, batch_size=4, learning_rate=1.0, find_learning_rate=True)
        run_here(job)
    (found,), (again,) = (events(job, "lr_found") for job in jobs[:2])
    assert found.data == again.data, "the same job finds the same rate"
    rate = found.data["learning_rate"]
    assert 1e-4 <= rate < 1.0
    assert len(found.data["tried"]) == len(found.data["losses"]) <= LEAST_STEPS
    assert max(event.data["learning_rate"] for event in events(jobs[0], "step")) == pytest.approx(rate)
    # The same training as with that rate given from the start: nothing of the sweep is left.
    write_job(jobs[2], epochs=3, batch_size=4, learning_rate=rate)
    run_here(jobs[2])
    assert losses(jobs[2]) == pytest.approx(losses(jobs[0]), rel=1e-5)
    for name, weights in adapter_weights(jobs[2]).items():
        assert adapter_weights(jobs[0])[name] == pytest.approx(weights, rel=1e-3, abs=1e-6)


def test_a_resumed_job_keeps_the_rate_that_was_found(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job", epochs=3, batch_size=4, learning_rate=1.0, find_learning_rate=True)
    run_here(job, stop_after=4)
    run_here(job)
    (found,) = events(job, "lr_found")
    assert max(event.data["learning_rate"] for event in events(job, "step")) <= found.data["learning_rate"]
    assert events(job)[-1].type == "finished"
