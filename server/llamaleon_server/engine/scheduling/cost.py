"""What a pass will cost: learned from the passes that were, for chunk sizes and for guessing ahead.

A pass takes about `fixed + per_token * tokens + per_output * outputs` seconds: reading the weights costs the
same for any batch, each token its multiplications, each row of logits those of the output head. On two CPU
cores with a 0.5 B model that was 10 ms, 2.85 ms and 1.4 ms, roughly, from 15 tokens up; below, kernels change
with the size (see sizes.py).
"""

from __future__ import annotations

import math

FORGETTING = 0.95  # a pass twenty passes ago counts a third of the latest
IGNORED_PASSES = 1  # the first allocates buffers and pages the weights in
LEAST_PASSES = 4
OUTLIER = 3.0  # a pass counts as at most this many times longer (or shorter) than predicted, unless repeated
DRIFT = (
    0.25  # passes that are on average this much longer or shorter (as a logarithm) tell of a new machine...
)
DRIFT_GAIN = 0.2  # ...the average being over about five
ANCHOR = 0.02  # how firmly a coefficient stays where it was while nothing new is seen of it
UNIT_TOKENS = 64.0  # tokens and outputs are counted in this, so that the three coefficients are of one order

Vector = list[float]  # fixed, per token, per output


class StepCost:
    """Recursive least squares of relative errors, with forgetting and without negative coefficients.

    Old passes fade, but only in favour of new ones: `ANCHOR` pulls every coefficient towards its last value,
    so a thousand passes of one shape do not make it forget what other shapes cost. Where all passes become
    slower, because the machine has other work, all that was learned is scaled.

    Every step pays for it, and three by three numbers are few: numpy's calls would take ten times as long.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._odd = 0  # passes in a row that took far longer (positive) or shorter (negative) than predicted
        self._drift = 0.0  # mean logarithm of measured over predicted
        self._information = [[1e-6 * (row == column) for column in range(3)] for row in range(3)]
        self._evidence = [0.0, 0.0, 0.0]
        self._found = [0.0, 0.0, 0.0]
        self.largest_tokens = 0  # of a pass seen so far: beyond it the prediction is extrapolated

    def observe(self, tokens: int, outputs: int, seconds: float) -> None:
        """Take in a pass that has been measured."""
        self._seen += 1
        if self._seen <= IGNORED_PASSES or seconds <= 0.0:
            return
        self.largest_tokens = max(self.largest_tokens, tokens)
        expected = self.predict(tokens, outputs)
        if expected:
            seconds = self._believable(seconds, expected)
            self._follow(seconds / expected)
        row = [1.0 / seconds, tokens / UNIT_TOKENS / seconds, outputs / UNIT_TOKENS / seconds]
        anchor = ANCHOR * (1.0 - FORGETTING) / seconds**2
        for one, weights in zip(row, self._information, strict=True):
            weights[:] = [FORGETTING * old + one * other for old, other in zip(weights, row, strict=True)]
        for at, found in enumerate(self._found):
            self._information[at][at] += anchor
            self._evidence[at] = FORGETTING * self._evidence[at] + row[at] + anchor * found
        self._found = _solve(self._information, self._evidence)

    def predict(self, tokens: int, outputs: int) -> float | None:
        """Seconds of a pass with so many tokens and rows of logits; None until enough passes were seen."""
        if self._seen < IGNORED_PASSES + LEAST_PASSES:
            return None
        fixed, per_token, per_output = self._found
        return fixed + per_token * tokens / UNIT_TOKENS + per_output * outputs / UNIT_TOKENS

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
        self._information = [[one / factor**2 for one in row] for row in self._information]
        self._evidence = [one / factor for one in self._evidence]
        self._found = [one * factor for one in self._found]


def _solve(information: list[Vector], evidence: Vector) -> Vector:
    """The best coefficients among those that are not negative: the worst offender is left out, in turn."""
    kept = [0, 1, 2]
    while True:
        found = _eliminate([[*(information[row][one] for one in kept), evidence[row]] for row in kept])
        worst = min(found)
        if worst >= 0.0 or len(kept) == 1:
            break
        del kept[found.index(worst)]
    coefficients = [0.0, 0.0, 0.0]
    for at, one in zip(kept, found, strict=True):
        coefficients[at] = max(one, 0.0)
    return coefficients


def _eliminate(rows: list[Vector]) -> Vector:
    """Solve equations, each a row of coefficients and its right side. Definite ones need no pivots."""
    for at, pivot in enumerate(rows):
        for below in rows[at + 1 :]:
            factor = below[at] / pivot[at]
            for column in range(at, len(pivot)):
                below[column] -= factor * pivot[column]
    found: Vector = []
    for at in range(len(rows) - 1, -1, -1):
        row = rows[at]
        known = sum(one * other for one, other in zip(row[at + 1 : -1], found, strict=True))
        found.insert(0, (row[-1] - known) / row[at])
    return found
