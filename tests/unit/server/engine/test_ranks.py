"""Ranks are given to nobody twice, and come back whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.engine.adapters.ranks import RankSpace

FIRST, TOTAL, GRANULE = 16, 128, 16


@given(st.lists(st.one_of(st.integers(1, 70), st.just("give")), max_size=60))
def test_against_a_list_of_every_rank(orders: list[int | str]) -> None:
    space = RankSpace(FIRST, TOTAL, GRANULE)
    taken: dict[int, int] = {}  # first rank -> ranks asked for
    owner: dict[int, int] = {}  # rank -> first rank of what it belongs to
    for number, order in enumerate(orders):
        if order == "give":
            if taken:
                first = sorted(taken)[number % len(taken)]
                space.give(first, taken.pop(first))
                owner = {rank: who for rank, who in owner.items() if who != first}
        else:
            assert isinstance(order, int)
            rounded = -(-order // GRANULE) * GRANULE
            first_found = space.take(order)
            free = [rank for rank in range(FIRST, FIRST + TOTAL) if rank not in owner]
            runs = [
                rank for rank in free if all(rank + i in free for i in range(rounded)) and rank % GRANULE == 0
            ]
            assert first_found == (runs[0] if runs else None)  # first fit, and nothing that fits is refused
            if first_found is not None:
                taken[first_found] = order
                owner |= dict.fromkeys(range(first_found, first_found + rounded), first_found)
        assert space.used == len(owner)
    for first, ranks in taken.items():
        space.give(first, ranks)
    assert space.take(TOTAL) == FIRST


def test_a_space_of_nothing() -> None:
    assert RankSpace(FIRST, 0, GRANULE).take(1) is None
