"""The learning rate over a job: a linear warm-up, then one of `job.SCHEDULERS`. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable

# Share of the job after the warm-up, from 0 at its first step on, to the share of the highest rate.
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}


def rate_share(scheduler: str, warmup_fraction: float, step: int, steps: int) -> float:
    """Share of the highest learning rate at `step`, 1 to `steps`; a falling one is 0 just after the last.

    >>> [rate_share("linear", 0.2, step, 10) for step in (1, 2, 3, 7)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step <= warmup:
        return step / warmup
    return SHAPES[scheduler]((step - 1 - warmup) / max(1, steps - warmup))
