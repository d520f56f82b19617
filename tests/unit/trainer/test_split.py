from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaleon_trainer.rows import DataRow
from llamaleon_trainer.split import split


def rows(texts: list[str]) -> list[DataRow]:
    return [DataRow(line=line, text=text) for line, text in enumerate(texts, start=1)]


def test_holds_out_the_fraction_asked_for() -> None:
    train, held_out = split(rows([str(n) for n in range(200)]), 0.1, seed=1)
    assert (len(train), len(held_out)) == (180, 20)
    assert [row.line for row in train] == sorted(row.line for row in train)


def test_depends_on_seed_and_content_but_not_on_order() -> None:
    texts = [str(n) for n in range(50)]
    held = {row.text for row in split(rows(texts), 0.2, seed=3)[1]}
    assert held == {row.text for row in split(rows(texts[::-1]), 0.2, seed=3)[1]}
    assert held != {row.text for row in split(rows(texts), 0.2, seed=4)[1]}


def test_nothing_held_out() -> None:
    assert split(rows(["a"]), 0.0) == (rows(["a"]), [])


@settings(deadline=None)  # the first example of a busy machine
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2), st.floats(0.01, 0.99), st.integers(0, 9))
def test_identical_rows_go_together(texts: list[str], fraction: float, seed: int) -> None:
    if len(set(texts)) < 2:
        with pytest.raises(ValueError, match="at least two different rows"):
            split(rows(texts), fraction, seed)
        return
    train, held_out = split(rows(texts), fraction, seed)
    assert train
    assert held_out
    assert not {row.text for row in train} & {row.text for row in held_out}
    assert sorted(row.line for row in train + held_out) == list(range(1, len(texts) + 1))


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="held-out fraction must be"):
        split(rows(["a", "b"]), fraction)


def test_near_duplicates_stay_on_one_side() -> None:
    rows = [DataRow(line=n, text=str(n)) for n in range(60)]
    alike = [(n, n + 1) for n in range(0, 60, 3)] + [(n + 1, n + 2) for n in range(0, 60, 3)]
    train, held_out = split(rows, 0.2, 3, alike)
    assert len(held_out) == 12
    sides = [{row.line // 3 for row in part} for part in (train, held_out)]
    assert sides[0].isdisjoint(sides[1])
    assert split(rows[::-1], 0.2, 3, [(59 - one, 59 - other) for one, other in alike])[1] == held_out[::-1]


def test_where_all_rows_are_alike_some_are_held_out_nevertheless() -> None:
    rows = [DataRow(line=n, text=str(n)) for n in range(10)]
    train, held_out = split(rows, 0.2, 0, [(n, n + 1) for n in range(9)])
    assert (len(train), len(held_out)) == (8, 2)
