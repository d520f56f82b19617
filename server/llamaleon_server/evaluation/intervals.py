"""How sure a figure is: 95 % intervals of figures, and of the difference of two models on the same rows.

Shares of rows have Wilson's interval, their paired difference Newcombe's (1998, method 10), which is built
of Wilson's: both stay sensible where nothing, or everything, was right. All other figures are resampled:
the rows are drawn again with replacement, always by the same seed, and the middle 95 % of what comes out is
the interval. A difference is of the same rows of both models, so that rows that are hard for both do not
count as uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""From sums over rows, `(n_samples, n_statistics)`, to figures, `(n_samples,)`; NaN where undefined."""

Z = 1.959963984540054  # of the normal distribution, 95 % two-sided
SAMPLES = 1000
SEED = 20260101
FEWEST = 3  # rows, below which resampling says nothing


class Figure(Struct, frozen=True, omit_defaults=True):
    """`low` and `high` are the 95 % interval; None: too few rows to say."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int = 0


def wilson(right: float, rows: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927).

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    share, spread = right / rows, Z * Z / rows
    centre = share + spread / 2
    reach = Z * math.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return max(0.0, (centre - reach) / (1 + spread)), min(1.0, (centre + reach) / (1 + spread))


def newcombe(first: Array, second: Array) -> tuple[float, float]:
    """Interval of the difference of two shares, `first` minus `second`, of the same rows (0 or 1 each)."""
    rows = len(first)
    both = float(np.sum(first * second))
    only_first, only_second = float(np.sum(first)) - both, float(np.sum(second)) - both
    neither = rows - both - only_first - only_second
    share_1, share_2 = (both + only_first) / rows, (both + only_second) / rows
    (low_1, high_1), (low_2, high_2) = wilson(share_1 * rows, rows), wilson(share_2 * rows, rows)
    phi = _phi(both, only_first, only_second, neither)
    difference = share_1 - share_2
    down, up = share_1 - low_1, high_2 - share_2
    lower = difference - math.sqrt(max(0.0, down * down - 2 * phi * down * up + up * up))
    up, down = high_1 - share_1, share_2 - low_2
    upper = difference + math.sqrt(max(0.0, down * down - 2 * phi * down * up + up * up))
    return max(-1.0, lower), min(1.0, upper)


def _phi(a: float, b: float, c: float, d: float) -> float:
    """How the two columns of a 2 x 2 table go together, with Newcombe's correction for continuity."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    product = a * d - b * c
    if product > 0:
        product = max(product - (a + b + c + d) / 2, 0.0)
    return product / math.sqrt(margins)


def share(right: Array) -> Figure | None:
    """Of rows that are right (1) or not (0)."""
    if not len(right):
        return None
    return Figure(float(np.mean(right)), *wilson(float(np.sum(right)), len(right)), rows=len(right))


def resampled(statistics: Array, combine: Combine) -> Figure | None:
    """A figure of `(n_rows, n_statistics)`; None where it is not defined."""
    value = _value(statistics, combine)
    if value is None:
        return None
    if len(statistics) < FEWEST:
        return Figure(value, rows=len(statistics))
    return Figure(value, *_middle(combine(_weights(len(statistics)) @ statistics)), rows=len(statistics))


def resampled_difference(first: Array, second: Array, combine: Combine) -> Figure | None:
    """`first` minus `second`, both `(n_rows, n_statistics)` of the same rows."""
    one, other = _value(first, combine), _value(second, combine)
    if one is None or other is None:
        return None
    if len(first) < FEWEST:
        return Figure(one - other, rows=len(first))
    weights = _weights(len(first))
    samples = combine(weights @ first) - combine(weights @ second)
    return Figure(one - other, *_middle(samples), rows=len(first))


def share_difference(first: Array, second: Array) -> Figure | None:
    if not len(first):
        return None
    difference = float(np.mean(first) - np.mean(second))
    return Figure(difference, *newcombe(first, second), rows=len(first))


def divided(above: Array, below: Array) -> Array:
    """NaN where there is nothing to divide by."""
    found = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below != 0)
    return found


def _value(statistics: Array, combine: Combine) -> float | None:
    if not len(statistics):
        return None
    value = float(combine(statistics.sum(axis=0, keepdims=True))[0])
    return value if math.isfinite(value) else None


def _weights(rows: int) -> Array:
    """How often each sample has each row: `(SAMPLES, rows)`."""
    drawn: Any = np.random.default_rng(SEED).multinomial(rows, np.full(rows, 1 / rows), size=SAMPLES)
    return np.asarray(drawn, dtype=np.float64)


def _middle(samples: Array) -> tuple[float | None, float | None]:
    known = samples[np.isfinite(samples)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
