"""What small decoding passes cost, size by size: what the formula of `StepCost` cannot say.

Kernels work in tiles. On one CPU, with Q8_0 weights, a pass of 2 tokens took 2.6 times as long as a pass of
one, a pass of 6 took 5.1 times as long, and a pass of 16 only 5.0 times: there guessing 15 tokens ahead is
worth a lot, guessing one ahead is a loss, and no straight line says so.
"""

from __future__ import annotations

from bisect import bisect
from typing import Protocol

MOST_TOKENS = 64  # larger passes are left to the formula
ADAPTS = 0.3  # how much one pass changes what is known of its size...
FOLLOWS = 0.1  # ...and, as a power, of all others: a busy machine is slower at everything
OUTLIER = 3.0  # a pass counts as at most this many times longer or shorter than known


class Cost(Protocol):
    """Seconds of a pass with so many tokens and rows of logits; None if not known yet."""

    def predict(self, tokens: int, outputs: int) -> float | None: ...


class PassSizes:
    """Seconds of passes in which every token gets logits, by their number of tokens."""

    def __init__(self, formula: Cost) -> None:
        self._formula = formula
        self._seconds: dict[int, float] = {}

    def observe(self, tokens: int, seconds: float) -> None:
        """Take in a pass of so many tokens, all of them with logits."""
        if tokens > MOST_TOKENS or seconds <= 0.0:
            return
        known = self._seconds.get(tokens)
        if known is None:
            self._seconds[tokens] = seconds
            return
        ratio = min(max(seconds / known, 1 / OUTLIER), OUTLIER)
        for size in self._seconds:
            self._seconds[size] *= ratio**FOLLOWS if size != tokens else 1.0 + ADAPTS * (ratio - 1.0)

    def predict(self, tokens: int) -> float | None:
        """Seconds of such a pass: measured, or between its neighbours, or as the formula goes on."""
        if tokens in self._seconds:
            return self._seconds[tokens]
        sizes = sorted(self._seconds)
        place = bisect(sizes, tokens)
        if place == 0:
            return self._formula.predict(tokens, tokens)
        below = sizes[place - 1]
        if place == len(sizes):
            here, there = self._formula.predict(tokens, tokens), self._formula.predict(below, below)
            return None if here is None or there is None else self._seconds[below] + here - there
        above = sizes[place]
        part = (tokens - below) / (above - below)
        return (1 - part) * self._seconds[below] + part * self._seconds[above]
