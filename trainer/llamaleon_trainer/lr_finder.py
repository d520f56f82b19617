"""Which learning rate: try rising ones for a few steps each, then undo all of it.

The learning-rate range test (Smith 2015, arXiv:1506.01186, section 3.3), read as fastai does: losses are
averaged exponentially, the sweep ends where they diverge, and the rate is that of the steepest descent by the
logarithm of the rate, but at most a tenth of the one with the lowest loss, where its rise began.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import chain, cycle, islice

import torch
from msgspec import Struct

from .train import Trainer

LOWEST_SHARE = 1e-4  # of the highest rate: where the sweep begins
STEPS = 40
LEAST_STEPS = 12
SMOOTHING = 0.8  # share of the past in the average
DIVERGED = 1.5  # times the lowest averaged loss
MARGIN = 10.0  # below the rate of the lowest loss


class Found(Struct, frozen=True):
    learning_rate: float
    tried: list[float]
    losses: list[float]  # of each rate tried, as they were measured


def find_learning_rate(trainer: Trainer, highest: float, steps: int, seed: int) -> Found:
    """Sweep up to `highest`. Weights and optimizer are as before when this returns; call it before step 1.

    Args:
        steps: of the whole job; the sweep takes at most a tenth of them, but no fewer than `LEAST_STEPS`.
    """
    parameters = trainer.computation.parameters
    before = [parameter.detach().clone() for parameter in parameters]
    count = max(LEAST_STEPS, min(STEPS, steps // 10))
    rates = [highest * LOWEST_SHARE ** (1 - step / (count - 1)) for step in range(count)]
    batches = islice(chain.from_iterable(cycle([trainer.batches(0)])), count)
    losses: list[float] = []
    try:
        for step, (rate, batch) in enumerate(zip(rates, batches, strict=True)):
            torch.manual_seed(random.Random(f"{seed} sweep {step}").getrandbits(63))
            loss = trainer.optimize(batch, rate)[0]["loss"]
            if not math.isfinite(loss):
                break
            losses.append(loss)
            if diverged(losses):
                break
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.grad = None
        trainer.optimizer.state.clear()  # as a fresh one's
    tried = rates[: len(losses)]
    return Found(choose(tried, losses, highest), tried, losses)


def choose(rates: Sequence[float], losses: Sequence[float], highest: float) -> float:
    """The rule of the module. Without a descent the lowest rate: nothing above it helped."""
    averaged = smooth(losses)
    if len(averaged) < 3:
        return highest * LOWEST_SHARE
    lowest = min(range(len(averaged)), key=averaged.__getitem__)
    if lowest == 0:
        return rates[0]
    # Central differences: rates are evenly spaced in their logarithm.
    slopes = [averaged[min(step + 1, lowest)] - averaged[max(step - 1, 0)] for step in range(lowest + 1)]
    steepest = min(range(len(slopes)), key=slopes.__getitem__)
    # A sweep that ends at its lowest loss saw no divergence: the highest rate is what the job allows anyway.
    saw_rise = lowest < len(averaged) - 1
    return min(rates[steepest], rates[lowest] / MARGIN) if saw_rise else rates[steepest]


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential averages, each over the losses up to it, without a bias towards 0 at the beginning."""
    averaged, total = [], 0.0
    for step, loss in enumerate(losses, start=1):
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        averaged.append(total / (1 - SMOOTHING**step))
    return averaged


def diverged(losses: Sequence[float]) -> bool:
    averaged = smooth(losses)
    return averaged[-1] > DIVERGED * min(averaged)
