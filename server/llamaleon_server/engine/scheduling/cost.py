"""What a pass will cost: learned from the passes that were, for chunk sizes and for guessing ahead.

A pass takes about `fixed + per_token * tokens + per_output * outputs` seconds: reading the weights costs the
same for any batch, each token its multiplications, each row of logits those of the output head. On two CPU
cores with a 0.5 B model that was 10 ms, 2.85 ms and 1.4 ms, roughly, from 15 tokens up; below, kernels change
with the size (see sizes.py).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FORGETTING = 0.95  # a pass twenty passes ago counts a third of the latest
IGNORED_PASSES = 1  # the first allocates buffers and pages the weights in
LEAST_PASSES = 4
OUTLIER = 3.0  # a pass counts as at most this many times longer (or shorter) than predicted, unless repeated
DRIFT = (
    0.25  # passes that are on average this much longer or shorter (as a logarithm) tell of a new machine...
)
DRIFT_GAIN = 0.2  # ...the average being over about five
ANCHOR = 0.02  # how firmly a coefficient stays where it was while nothing new is seen of it
EQUAL_PASSES = 8  # in a row that are all learned from; then one in so many
UNIT_TOKENS = 64.0  # tokens and outputs are counted in this, so that the three coefficients are of one order


class StepCost:
    """Recursive least squares of relative errors, with forgetting and without negative coefficients.

    Old passes fade, but only in favour of new ones: `ANCHOR` pulls every coefficient towards its last value,
    so a thousand passes of one shape do not make it forget what other shapes cost. Where all passes become
    slower, because the machine has other work, all that was learned is scaled.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._odd = 0  # passes in a row that took far longer (positive) or shorter (negative) than predicted
        self._drift = 0.0  # mean logarithm of measured over predicted
        self._shape = (0, 0)  # of the last pass, and how many before it in a row had the same
        self._repeated = 0
        self._information = np.eye(3) * 1e-6
        self._evidence = np.zeros(3)
        self._fixed = self._per_token = self._per_output = 0.0
        self.largest_tokens = 0  # of a pass seen so far: beyond it the prediction is extrapolated

    def observe(self, tokens: int, outputs: int, seconds: float) -> None:
        """Take in a pass that has been measured."""
        self._seen += 1
        if self._seen <= IGNORED_PASSES or seconds <= 0.0:
            return
        self.largest_tokens = max(self.largest_tokens, tokens)
        if self._teaches_nothing(tokens, outputs):
            return
        expected = self.predict(tokens, outputs)
        if expected:
            seconds = self._believable(seconds, expected)
            self._follow(seconds / expected)
        row = np.array([1.0, tokens / UNIT_TOKENS, outputs / UNIT_TOKENS]) / seconds
        anchor = ANCHOR * (1.0 - FORGETTING) / seconds**2
        last = np.array([self._fixed, self._per_token * UNIT_TOKENS, self._per_output * UNIT_TOKENS])
        self._information *= FORGETTING
        self._information += np.outer(row, row) + anchor * np.eye(3)
        self._evidence *= FORGETTING
        self._evidence += row + anchor * last
        fixed, per_token, per_output = (float(x) for x in _solve(self._information, self._evidence))
        self._fixed, self._per_token = fixed, per_token / UNIT_TOKENS
        self._per_output = per_output / UNIT_TOKENS

    def _teaches_nothing(self, tokens: int, outputs: int) -> bool:
        """Most of a long row of equal passes: learning from one costs 0.1 ms."""
        shape = tokens, outputs
        self._repeated = self._repeated + 1 if shape == self._shape else 0
        self._shape = shape
        return self._repeated > EQUAL_PASSES and self._repeated % EQUAL_PASSES != 0

    def predict(self, tokens: int, outputs: int) -> float | None:
        """Seconds of a pass with so many tokens and rows of logits; None until enough passes were seen."""
        if self._seen < IGNORED_PASSES + LEAST_PASSES:
            return None
        return self._fixed + self._per_token * tokens + self._per_output * outputs

    def _believable(self, seconds: float, expected: float) -> float:
        """A single outlier is cut to size; the second in a row is a change, and believed."""
        if expected / OUTLIER <= seconds <= expected * OUTLIER:
            self._odd = 0
            return seconds
        direction = 1 if seconds > expected else -1
        repeated = self._odd * direction > 0
        self._odd = direction
        return seconds if repeated else min(max(seconds, expected / OUTLIER), expected * OUTLIER)

    def _follow(self, ratio: float) -> None:
        """Scale everything if passes take `ratio` times what was predicted, again and again."""
        self._drift += DRIFT_GAIN * (math.log(ratio) - self._drift)
        if abs(self._drift) < DRIFT:
            return
        factor = math.exp(self._drift)
        self._drift = 0.0
        self._information /= factor**2
        self._evidence /= factor
        self._fixed, self._per_token = factor * self._fixed, factor * self._per_token
        self._per_output *= factor


def _solve(information: NDArray[np.float64], evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best coefficients among those that are not negative: the worst offender is left out, in turn."""
    kept = [0, 1, 2]
    while True:
        found = np.linalg.solve(information[np.ix_(kept, kept)], evidence[kept])
        worst = int(found.argmin())
        if found[worst] >= 0.0 or len(kept) == 1:
            break
        del kept[worst]
    coefficients = np.zeros(3)
    coefficients[kept] = np.maximum(found, 0.0)
    return coefficients
