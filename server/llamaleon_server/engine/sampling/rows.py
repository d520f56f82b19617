"""Arithmetic on one row of logits, (n_vocab,), fast for vocabularies of hundreds of thousands of tokens.

Everything is exact. Among equal values the lowest token ids come first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Indices = NDArray[np.intp]

WIDE = 1024  # the nucleus is nearly always in so many; more are looked at where it is not
LEAST_GROUPS = 1024  # fewer make short rows, and numpy slow
BLOCK = 1024  # weights whose running sum is taken


class NotFinite(Exception):
    """The model computed NaN or infinity: nothing can be drawn from that."""


def largest(row: Row, count: int) -> Indices:
    """Indices of the `count` largest values, ascending, all if there are fewer.

    The count-th largest of the maxima of some groups is a bound that few values reach, and those are all that
    is looked at further: several times as fast as `argpartition`.
    """
    if count >= len(row):
        return np.arange(len(row))
    groups = max(4 * count, LEAST_GROUPS)
    if 2 * groups > len(row):
        return _upper(row, np.partition(row, -count)[-count], count)
    maxima = row[: len(row) // groups * groups].reshape(-1, groups).max(axis=0)
    found = np.flatnonzero(row >= np.partition(maxima, -count)[-count])
    values = row[found]
    chosen: Indices = found[_upper(values, np.partition(values, -count)[-count], count)]
    return chosen


def nucleus(weights: Row, share: float) -> Indices:
    """Indices, ascending, of the fewest largest weights that make up at least `share` of their sum."""
    wanted = share * float(weights.sum())
    candidates = weights[largest(weights, WIDE)]
    if candidates.sum() < wanted:
        candidates = weights
    ranked = np.sort(candidates)[::-1]
    last = _reaching(ranked, wanted, "left")
    return _upper(weights, ranked[last], last + 1)


def _upper(row: Row, border: np.float32, count: int) -> Indices:
    """Indices, ascending, of the `count` largest values, whose smallest is `border`."""
    found = np.flatnonzero(row >= border)
    surplus = len(found) - count
    if surplus > 0:
        equal = np.flatnonzero(row[found] == border)
        found = np.delete(found, equal[-surplus:])
    return found


def draw_index(weights: Row, uniform: float) -> int:
    """The index that a uniform number of [0, 1) draws, each with a probability in proportion to its weight.

    One weight at least must be above zero; one of zero is never drawn.
    """
    return _reaching(weights, uniform * float(weights.sum()), "right")


def _reaching(weights: Row, target: float, side: Literal["left", "right"]) -> int:
    """The first index up to which the weights sum to at least `target`, or with "right" to more than it.

    Summed in blocks, because a running sum of all is the slowest thing one can do with a row. Where rounding
    keeps a sum below the target, its largest value counts as reaching it.
    """
    begin = 0
    if len(weights) > BLOCK:
        sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK))
        block = _reaching(sums, target, side)
        begin = block * BLOCK
        weights = weights[begin : begin + BLOCK]
        target = max(0.0, target - float(sums[:block].sum(dtype=np.float64)))
    sums = weights.cumsum(dtype=np.float64)
    most = sums[-1] if side == "left" else np.nextafter(sums[-1], 0.0)
    return begin + int(np.searchsorted(sums, min(target, most), side))
