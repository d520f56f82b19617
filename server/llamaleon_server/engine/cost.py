"""What a pass will cost: learned from the passes that were, for chunk sizes and for guessing ahead.

A pass takes about `fixed + per_token * tokens + per_output * outputs` seconds: reading the weights costs the
same for any batch, each token its multiplications, each row of logits those of the output head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FORGETTING = 0.95  # a pass twenty passes ago counts a third of the latest
IGNORED_PASSES = 1  # the first allocates buffers and pages the weights in
LEAST_PASSES = 4
OUTLIER = 3.0  # a pass may count as at most this many times longer (or shorter) than predicted
ANCHOR = 0.02  # how firmly a coefficient stays where it was while nothing new is seen of it

# Tokens and outputs in one unit of theirs, so that the three coefficients are of one order.
_SCALE = np.array([1.0, 1 / 64, 1 / 64])


class StepCost:
    """Recursive least squares of relative errors, with forgetting and without negative coefficients.

    Old passes fade, but only in favour of new ones: `ANCHOR` pulls every coefficient towards its last value,
    so a thousand passes of one shape do not make it forget what other shapes cost.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._information = np.eye(3) * 1e-6
        self._evidence = np.zeros(3)
        self._coefficients = np.zeros(3)

    def observe(self, tokens: int, outputs: int, seconds: float) -> None:
        """Take in a pass that has been measured."""
        self._seen += 1
        if self._seen <= IGNORED_PASSES or seconds <= 0.0:
            return
        expected = self.predict(tokens, outputs)
        if expected is not None and expected > 0.0:
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        row = _row(tokens, outputs) / seconds
        anchor = ANCHOR * (1.0 - FORGETTING) / seconds**2
        self._information *= FORGETTING
        self._information += np.outer(row, row) + anchor * np.eye(3)
        self._evidence *= FORGETTING
        self._evidence += row + anchor * self._coefficients
        self._coefficients = _solve(self._information, self._evidence)

    def predict(self, tokens: int, outputs: int) -> float | None:
        """Seconds of a pass with so many tokens and rows of logits; None until enough passes were seen."""
        if self._seen < IGNORED_PASSES + LEAST_PASSES:
            return None
        return float(_row(tokens, outputs) @ self._coefficients)


def _row(tokens: int, outputs: int) -> NDArray[np.float64]:
    row: NDArray[np.float64] = np.array([1.0, tokens, outputs]) * _SCALE
    return row


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
