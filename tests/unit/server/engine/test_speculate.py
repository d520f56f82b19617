"""Guessing ahead: the lookup against a naive search, and when it is worth its time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.engine.scheduling.sizes import PassSizes
from llamaleon_server.engine.scheduling.speculate import (
    FIRST_CHANCE,
    INDEXED_PER_STEP,
    MOST_GUESSES,
    ORDERS,
    TRIAL_PASSES,
    NgramIndex,
    Speculator,
)
from llamaleon_server.engine.sequence import Sequence


class Costs:
    """A pass takes `fixed` plus one for each token."""

    def __init__(self, fixed: float | None) -> None:
        self.fixed = fixed

    def predict(self, tokens: int, outputs: int) -> float | None:
        return None if self.fixed is None else self.fixed + (tokens + outputs) / 2


def sequence_of(tokens: list[int], number: int = 1) -> Sequence:
    return Sequence(Generate(id=number, prompt=[]), tokens, 10_000)


# ------------------------------------------------------------ the index


def naive(tokens: list[int]) -> tuple[int, int] | None:
    for order in ORDERS:
        for place in reversed(range(order, len(tokens))):
            if tokens[place - order : place] == tokens[-order:]:
                return place, order
    return None


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 7))
def test_the_index_finds_what_a_search_finds(tokens: list[int], most: int) -> None:
    """However the tokens came: some at once, then one by one."""
    index = NgramIndex()
    for end in range(1, len(tokens) + 1):
        while index.extend(tokens[:end], most):
            pass
        assert index.find(tokens[:end]) == naive(tokens[:end])


def test_the_index_reads_a_long_prompt_bit_by_bit() -> None:
    index, tokens = NgramIndex(), list(range(1000)) * 3
    assert [index.extend(tokens, 1200) for _ in range(4)] == [1200, 1200, 600, 0]
    assert index.find(tokens) == (2000, 4)


def test_the_index_forgets_the_oldest() -> None:
    tokens = [7, 8, 9, 10, *range(100, 1000)]
    index = NgramIndex(limit=400)
    for end in range(1, len(tokens) + 1):
        index.extend(tokens[:end], 50)
        assert sum(len(places) for places in index._after.values()) <= len(ORDERS) * 400
    assert index.find([*tokens, 7, 8, 9, 10]) is None
    assert index.find([*tokens, 990, 991, 992]) == (tokens.index(993), 3)


# ------------------------------------------------------------ when


def test_nothing_is_guessed_before_the_cost_of_a_pass_is_known() -> None:
    sequence = sequence_of([1, 2, 3, 4, 5] * 4)
    assert Speculator(Costs(None)).propose([sequence], 100, 100) == {}
    assert Speculator(Costs(100.0)).propose([sequence], 100, 100) != {}


def test_a_guess_must_be_worth_its_time() -> None:
    """Where a token costs as much as a pass nothing is gained; where passes are dear much is."""
    sequence = sequence_of([1, 2, 3, 4, 5] * 4)
    counts = [
        len(Speculator(Costs(fixed)).propose([sequence], 100, 100).get(1, ())) for fixed in (0.0, 1.0, 100.0)
    ]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2]


def test_a_loop_is_guessed_on() -> None:
    guesses = Speculator(Costs(1e6)).propose([sequence_of([9, 1, 2, 1, 2, 1, 2])], 100, 100)[1]
    assert guesses == ((1, 2) * MOST_GUESSES)[: len(guesses)]
    assert 4 <= len(guesses) <= MOST_GUESSES


def test_room_is_shared_by_the_likeliest() -> None:
    """One sequence has a long match, the other a short one."""
    long, short = sequence_of([1, 2, 3, 4, 5, 6, 7] * 2, 1), sequence_of([1, 2, 9, 3, 1, 2], 2)
    speculator = Speculator(Costs(1e6))
    assert list(speculator.propose([short, long], 1, 9)) == [1]
    for room in range(1, 12):
        proposed = speculator.propose([short, long], 50, room)
        assert sum(len(guesses) for guesses in proposed.values()) == min(
            room, sum(len(guesses) for guesses in speculator.propose([short, long], 50, 50).values())
        )


def drawn(speculator: Speculator, sequence: Sequence, text: list[int]) -> tuple[int, int, int]:
    """Let a model say `text`: (passes, guesses, guesses that came true)."""
    passes = guessed = accepted = 0
    while text:
        draft = speculator.propose([sequence], 100, 100).get(sequence.id, ())
        right = next((n for n, (a, b) in enumerate(zip(draft, text, strict=False)) if a != b), len(draft))
        right = min(right, len(text) - 1)
        sequence.tokens += text[: right + 1]
        text = text[right + 1 :]
        passes, guessed, accepted = passes + 1, guessed + len(draft), accepted + right
    return passes, guessed, accepted


def test_a_copied_text_takes_few_passes() -> None:
    prompt = list(range(100, 300))
    passes, guessed, accepted = drawn(Speculator(Costs(4.0)), sequence_of([*prompt, 7]), prompt)
    assert passes < len(prompt) / 3
    assert accepted > 0.9 * guessed


def test_it_stops_where_repetitions_mislead_and_starts_again() -> None:
    """Pairs recur, but what follows them does not: soon nothing is guessed any more, at no cost."""
    fresh = iter(range(1000, 10_000))
    misleading = [token for _ in range(200) for token in (1, 2, next(fresh))]
    speculator, sequence = Speculator(Costs(2.0)), sequence_of([1, 2])
    _, early, _ = drawn(speculator, sequence, misleading[:60])
    _, late, _ = drawn(speculator, sequence, misleading[60:])
    assert early < 20
    assert late == 0
    passes, _, accepted = drawn(speculator, sequence, misleading[300:500])
    assert accepted > 100
    assert passes < 100


def test_a_price_that_was_too_high_is_found_out() -> None:
    """Good guesses are tried now and then although they seem too dear; poor ones are not."""
    costs = Costs(0.0)
    speculator, copying = Speculator(costs), sequence_of([*range(100, 400), 7])
    passes, guessed, accepted = drawn(speculator, copying, list(range(100, 300)))
    assert 1 <= -(-guessed // MOST_GUESSES) <= 200 / TRIAL_PASSES
    assert passes == 200 - accepted
    costs.fixed = 10.0
    passes, _, _ = drawn(speculator, copying, list(range(300, 400)))
    assert passes < 30


def test_a_long_prompt_is_read_over_several_steps() -> None:
    sequences = [sequence_of([*range(5000), *range(4960, 5000)], number) for number in (1, 2)]
    speculator = Speculator(Costs(1e6))
    steps = 1
    while len(speculator.propose(sequences, 100, 100)) < 2:
        steps += 1
    assert steps == -(-2 * 5040 // INDEXED_PER_STEP)


def test_what_has_ended_is_forgotten() -> None:
    speculator = Speculator(Costs(1e6))
    sequence = sequence_of([1, 2, 3, 1, 2, 3])
    speculator.propose([sequence], 9, 9)
    assert len(speculator._known) == 1
    del sequence
    assert len(speculator._known) == 0
    assert set(FIRST_CHANCE) == set(ORDERS)


# ------------------------------------------------------------ by the size of a pass


def test_sizes_that_were_seen_are_known() -> None:
    """Between them it is interpolated, beyond them the formula goes on."""
    sizes = PassSizes(Costs(3.0))
    assert sizes.predict(5) == 8.0
    for tokens, seconds in ((1, 2.0), (9, 10.0), (5, 4.0)):
        sizes.observe(tokens, seconds)
    assert [sizes.predict(tokens) for tokens in (1, 3, 5, 7, 9, 12)] == [2.0, 3.0, 4.0, 7.0, 10.0, 13.0]


def test_a_slower_machine_is_slower_at_every_size() -> None:
    sizes = PassSizes(Costs(3.0))
    for tokens in (1, 8):
        sizes.observe(tokens, float(tokens))
    for _ in range(40):
        sizes.observe(1, 2.0)
    assert sizes.predict(1) == pytest.approx(2.0, rel=0.01)
    large = sizes.predict(8)
    assert large is not None
    assert 8.5 < large < 16.1


def test_long_runs_are_guessed_where_only_they_pay() -> None:
    """As with kernels that take 16 tokens in the time of 2."""
    speculator, copying = Speculator(Costs(100.0)), sequence_of([*range(100, 600), 7])
    for tokens, seconds in ((1, 1.0), (2, 4.0), (8, 4.0), (16, 4.0), (17, 6.0)):
        speculator.observe(tokens, tokens, seconds)
    drawn(speculator, copying, list(range(100, 400)))
    copying.tokens += range(400, 402)
    assert len(speculator.propose([copying], 100, 100)[1]) == 15
