"""How sure a figure is: 95 % intervals of figures, and of the difference of two models on the same rows.

Shares of rows have Wilson's interval, their paired difference Newcombe's (1998, method 10), which is built
of Wilson's: both stay sensible where nothing, or everything, was right. All other figures are resampled:
the rows are drawn again with replacement, always by the same seed, and the middle of what comes out is the
interval: 95 % of it for many rows, more for few (`_tail`). A difference is of the same rows of both models,
so that rows that are hard for both do not count as uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""From sums over rows, `(n_samples, n_statistics)`, to figures, `(n_samples,)`; NaN where undefined."""

Z = 1.959963984540054  # of the normal distribution, 95 % two-sided
SAMPLES = 1000
SEED = 20260101
AT_ONCE = 2**22  # numbers of samples x rows that are in memory, about 64 MB: of many rows few samples
FEWEST = 5  # rows, below which resampling says nothing: of 3 even all that comes out is an interval of 76 %


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
    return Figure(value, *_middle(combine(_drawn_sums(statistics)), len(statistics)), rows=len(statistics))


def resampled_difference(first: Array, second: Array, combine: Combine) -> Figure | None:
    """`first` minus `second`, both `(n_rows, n_statistics)` of the same rows."""
    one, other = _value(first, combine), _value(second, combine)
    if one is None or other is None:
        return None
    if len(first) < FEWEST:
        return Figure(one - other, rows=len(first))
    sums = _drawn_sums(np.hstack([first, second]))
    samples = combine(sums[:, : first.shape[1]]) - combine(sums[:, first.shape[1] :])
    return Figure(one - other, *_middle(samples, len(first)), rows=len(first))


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


def _drawn_sums(statistics: Array) -> Array:
    """The sums over the rows that each sample has drawn: `(SAMPLES, n_statistics)`."""
    random, rows = np.random.default_rng(SEED), len(statistics)
    chances, some = np.full(rows, 1 / rows), max(1, AT_ONCE // rows)
    sums = [
        random.multinomial(rows, chances, size=min(some, SAMPLES - done)) @ statistics
        for done in range(0, SAMPLES, some)
    ]
    return np.concatenate(sums)


def _middle(samples: Array, rows: int) -> tuple[float | None, float | None]:
    known = samples[np.isfinite(samples)]
    if not len(known):
        return None, None
    tail = _tail(rows)
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def _tail(rows: int) -> float:
    """The share of samples beyond either end of the interval.

    The plain 2.5 % makes 90 % intervals of 10 rows and 83 % ones of 5: samples of few rows vary less than
    rows do, and nobody knows by how much. Source: Hesterberg (2015), The American Statistician 69, 371-386,
    the "expanded percentile interval"; Student's quantile by Abramowitz and Stegun, 26.7.5.
    """
    freedom = rows - 1
    student = (
        Z
        + (Z**3 + Z) / (4 * freedom)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    )
    return NormalDist().cdf(-student * math.sqrt(rows / freedom))
