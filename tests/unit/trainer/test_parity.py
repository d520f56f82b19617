from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from llamaleon_trainer.parity import CHUNK_ROWS, Logits, compare, compare_files, write_logits

RNG = np.random.default_rng(0)


def logits(rows: int, vocab: int = 7) -> NDArray[np.float32]:
    return RNG.normal(size=(rows, vocab)).astype(np.float32)


def test_equal_logits_have_no_divergence() -> None:
    a = {"0": logits(3), "1": logits(5)}
    parity = compare(a, a)
    assert (parity.mean_kl, parity.max_abs_diff, parity.tokens) == (0.0, 0.0, 8)


def test_kl_is_served_against_trained_per_token_across_chunks() -> None:
    p = np.tile(np.array([[0.5, 0.25, 0.25]]), (CHUNK_ROWS + 10, 1))
    q = np.tile(np.array([[0.25, 0.5, 0.25]]), (CHUNK_ROWS + 10, 1))
    parity = compare({"0": np.log(p) + 3}, {"0": np.log(q)})  # a shift of all logits changes no probability
    assert parity.mean_kl == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert parity.max_abs_diff == pytest.approx(3 + np.log(2))
    assert parity.tokens == CHUNK_ROWS + 10


def test_large_logits_do_not_overflow() -> None:
    a = np.array([[1e4, 0.0]], dtype=np.float32)
    assert compare({"0": a}, {"0": a + 1}).mean_kl == pytest.approx(0.0, abs=1e-12)


def test_files(tmp_path: Path) -> None:
    a = logits(4)
    write_logits(tmp_path / "a.npz", [a])
    write_logits(tmp_path / "b.npz", [a + np.float32(0.5)])
    assert compare_files(tmp_path / "a.npz", tmp_path / "b.npz").max_abs_diff == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({"0": logits(1)}, {"1": logits(1)}, "sequences"),
        ({"0": logits(1)}, {"0": logits(2)}, "sequence 0 have shapes"),
        ({"0": logits(1)}, {"0": logits(1) * np.nan}, "not finite"),
        ({}, {}, "no logits"),
    ],
)
def test_refuses_what_cannot_be_compared(a: Logits, b: Logits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b)
