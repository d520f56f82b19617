"""Cuts and draws of a row, against slow and obvious ways to do the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llamaleon_server.engine.sampling.rows import BLOCK, WIDE, draw_index, largest, nucleus

Row = NDArray[np.float32]


def row_of(seed: int, size: int, values: int) -> Row:
    """Random values; few different ones make many ties."""
    rng = np.random.default_rng(seed)
    row: Row = rng.integers(0, values, size).astype(np.float32)
    return row


rows = st.builds(
    row_of, st.integers(0, 2**32), st.integers(1, 5 * WIDE), st.sampled_from([1, 2, 50, 1_000_000])
)


def ranked(row: Row) -> NDArray[np.intp]:
    """Largest first; of equals the lowest index."""
    return np.argsort(-row.astype(np.float64), kind="stable")


@given(rows, st.integers(1, 2 * WIDE))
def test_largest(row: Row, count: int) -> None:
    assert largest(row, count).tolist() == sorted(ranked(row)[:count])


def test_largest_of_a_row_that_is_mostly_forbidden() -> None:
    row = np.full(50_000, -np.inf, np.float32)
    row[[3, 40_000]] = 1.0
    assert largest(row, 3).tolist() == [0, 3, 40_000]


@given(rows, st.floats(0.001, 0.999))
def test_nucleus(row: Row, share: float) -> None:
    """Integers, so that sums are exact whichever way they are made."""
    row += 1
    order = ranked(row)
    sums = np.cumsum(row[order].astype(np.float64))
    count = 1 + int(np.argmax(sums >= share * sums[-1]))
    assert nucleus(row, share).tolist() == sorted(order[:count])


def test_a_nucleus_may_need_more_than_the_wide_cut() -> None:
    """What a fixed wide top-k in front of it would silently change."""
    flat = np.random.default_rng(0).uniform(0.9, 1.0, 40 * WIDE).astype(np.float32)
    assert len(nucleus(flat, 0.9)) > 30 * WIDE


@pytest.mark.parametrize("size", [1, 7, BLOCK, BLOCK + 1, 40 * BLOCK + 5])
def test_every_index_is_drawn_by_its_part_of_the_unit_interval(size: int) -> None:
    weights = np.random.default_rng(size).integers(0, 3, size).astype(np.float32)
    weights[-1] = 2.0
    ends = np.cumsum(weights, dtype=np.float64)
    for uniform in np.random.default_rng(1).uniform(size=300):
        index = draw_index(weights, float(uniform))
        assert weights[index] > 0
        assert ends[index] - weights[index] <= uniform * ends[-1] < ends[index]


@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-300, 0.5, 1 - 2**-53]), st.integers(1, 3 * BLOCK))
def test_a_weight_of_zero_is_never_drawn(seed: int, uniform: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.exp(-rng.exponential(30, size)) * rng.integers(0, 2, size)
    weights[rng.integers(size)] = 1e-30
    assert weights[draw_index(weights.astype(np.float32), uniform)] > 0
