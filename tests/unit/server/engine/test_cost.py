"""What a pass costs: learned from noisy passes, believed with care."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from llamaleon_server.engine.scheduling.cost import StepCost

Machine = Callable[[int, int], float]


def slow(tokens: int, outputs: int) -> float:
    return 0.010 + 0.0029 * tokens + 0.0014 * outputs


def fast(tokens: int, outputs: int) -> float:
    return 0.006 + 0.00004 * tokens + 0.00001 * outputs


def watch(cost: StepCost, machine: Machine, passes: int, seed: int = 0, noise: float = 0.05) -> None:
    """Passes of a server at work: streams decode, now and then with a piece of a prompt."""
    dice = random.Random(seed)
    for _ in range(passes):
        streams = dice.randint(1, 8)
        prompt = dice.choice([0, 0, 0, 16, 64, 200, 500])
        tokens, outputs = streams + prompt, streams + (prompt > 0)
        cost.observe(tokens, outputs, machine(tokens, outputs) * dice.uniform(1 - noise, 1 + noise))


SHAPES = [(1, 1), (8, 8), (64, 1), (120, 9), (512, 1)]


def known(cost: StepCost, tokens: int, outputs: int) -> float:
    seconds = cost.predict(tokens, outputs)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("machine", [slow, fast])
def test_it_learns_any_machine(machine: Machine) -> None:
    cost = StepCost()
    watch(cost, machine, 60)
    for tokens, outputs in SHAPES:
        assert known(cost, tokens, outputs) == pytest.approx(machine(tokens, outputs), rel=0.15)


def test_it_says_nothing_before_it_has_seen_enough() -> None:
    cost = StepCost()
    for _ in range(4):
        assert cost.predict(1, 1) is None
        cost.observe(8, 8, 0.1)
    cost.observe(8, 8, 0.1)
    assert known(cost, 8, 8) == pytest.approx(0.1, rel=0.05)
    assert cost.largest_tokens == 8


def test_a_slow_first_pass_poisons_nothing() -> None:
    cost = StepCost()
    cost.observe(64, 1, 9.0)
    watch(cost, slow, 5)
    assert known(cost, 64, 1) == pytest.approx(slow(64, 1), rel=0.2)


def test_an_outlier_changes_little_and_is_soon_forgotten() -> None:
    cost = StepCost()
    watch(cost, slow, 60)
    cost.observe(8, 8, 200 * slow(8, 8))
    for tokens, outputs in SHAPES:
        assert known(cost, tokens, outputs) < 1.5 * slow(tokens, outputs)
    watch(cost, slow, 20, seed=1)
    assert known(cost, 8, 8) == pytest.approx(slow(8, 8), rel=0.15)


@pytest.mark.parametrize("factor", [0.1, 0.4, 2.5, 10.0])
def test_it_follows_a_machine_that_changes(factor: float) -> None:
    cost = StepCost()
    watch(cost, slow, 100)
    watch(cost, lambda tokens, outputs: factor * slow(tokens, outputs), 40, seed=2)
    for tokens, outputs in SHAPES:
        assert known(cost, tokens, outputs) == pytest.approx(factor * slow(tokens, outputs), rel=0.25)


def test_a_thousand_passes_of_one_shape_do_not_unlearn_the_others() -> None:
    cost = StepCost()
    watch(cost, slow, 60)
    dice = random.Random(3)
    for _ in range(1000):
        cost.observe(8, 8, slow(8, 8) * dice.uniform(0.9, 1.1))
    for tokens, outputs in SHAPES:
        assert known(cost, tokens, outputs) == pytest.approx(slow(tokens, outputs), rel=0.35)


@pytest.mark.parametrize("seed", range(5))
def test_more_never_costs_less(seed: int) -> None:
    cost = StepCost()
    dice = random.Random(seed)
    for _ in range(200):
        tokens = dice.randint(1, 512)
        cost.observe(tokens, dice.randint(0, min(8, tokens)), dice.uniform(1e-4, 1.0))
    at = [known(cost, tokens, 1) for tokens in (0, 1, 8, 64, 512)]
    assert at == sorted(at)
    assert at[0] >= 0.0
    assert known(cost, 8, 8) >= known(cost, 8, 1)
