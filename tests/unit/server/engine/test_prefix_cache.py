"""What the prefix cache keeps, finds and counts, without llama.cpp."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.engine.bench import Bench, Everybody

from llamaleon_server.engine.cache.tokens import common_length, longest


def bench_of(**options: Any) -> Bench:
    defaults: dict[str, Any] = {"cells": 5000, "context": 1000, "batch": 512, "policy": Everybody()}
    return Bench(**(defaults | options))


def answer(bench: Bench, number: int, prompt: list[int], **fields: Any) -> int:
    """Run one request alone. Returns: how many tokens the cache had of it."""
    sequence = bench.add(number, prompt, **({"max_tokens": 2} | fields))
    bench.run()
    assert sequence.cached_tokens is not None
    return sequence.cached_tokens


LISTS = st.lists(st.integers(0, 2), max_size=9)


@given(LISTS, st.lists(LISTS, max_size=5), st.booleans())
def test_the_longest_common_beginning_is_found(
    wanted: list[int], donors: list[list[int]], whole: bool
) -> None:
    def common(one: list[int], other: list[int]) -> int:
        pairs = list(zip(one, other, strict=False))
        return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))

    arrays = [np.array(donor, np.int32) for donor in donors]
    asked = np.array(wanted, np.int32)
    assert [common_length(array, asked) for array in arrays] == [common(donor, wanted) for donor in donors]
    usable = [common(donor, wanted) for donor in donors]
    if whole:
        usable = [length if length == len(donor) else 0 for length, donor in zip(usable, donors, strict=True)]
    best, length = longest(asked, ((array, n) for n, array in enumerate(arrays)), whole=whole)
    assert length == max(usable, default=0)
    assert best == (usable.index(length) if length else None)


def test_another_adapter_or_weight_finds_nothing() -> None:
    bench = bench_of()
    prompt = list(range(100))
    assert answer(bench, 1, prompt, adapter="a") == 0
    assert answer(bench, 2, prompt, adapter="b") == 0
    assert answer(bench, 3, prompt) == 0
    assert answer(bench, 4, prompt, adapter="a") == 99
    assert answer(bench, 5, prompt) == 99


def test_who_does_not_want_the_cache_neither_takes_nor_leaves() -> None:
    bench = bench_of()
    prompt = list(range(100))
    assert answer(bench, 1, prompt, cache_prompt=False) == 0
    assert len(bench.prefixes) == 0
    answer(bench, 2, prompt)
    assert answer(bench, 3, prompt, cache_prompt=False) == 0
    assert answer(bench, 4, prompt, prompt_logprobs=0) == 0
    status = bench.prefixes.status()
    assert (status.hits, status.misses, status.prompt_tokens) == (0, 1, 100), "the others did not ask"


def test_a_prefix_and_what_extends_it_are_one() -> None:
    bench = bench_of()
    answer(bench, 1, list(range(100)))
    answer(bench, 2, list(range(300)))
    assert (len(bench.prefixes), bench.prefixes.tokens) == (1, 301)
    answer(bench, 3, list(range(50)), max_tokens=1)
    assert (len(bench.prefixes), bench.prefixes.tokens) == (1, 301), "the shorter is there already"


def test_cells_that_prefixes_share_count_once() -> None:
    bench = bench_of(spare=9)
    for number in range(8):
        answer(bench, number, [*range(500), 1000 + number])
    assert len(bench.prefixes) == 8
    assert bench.prefixes.tokens == 500 + 8 * 2
    assert bench.prefixes.tokens == bench.kv.total - bench.kv.free


def test_the_least_recently_used_goes_first() -> None:
    bench = bench_of(spare=3)
    for number in range(3):
        answer(bench, number, [number] * 50)
    answer(bench, 10, [0] * 50)
    answer(bench, 11, [9] * 50)
    assert bench.prefixes.status().evictions == 1
    assert answer(bench, 12, [0] * 50) == 49
    assert answer(bench, 13, [1] * 50) == 0


def test_hits_are_counted_once_also_for_those_put_back() -> None:
    bench = Bench(cells=1100, context=1000, batch=64)
    for number in range(3):
        bench.add(number, [number, 1, 2], max_tokens=None)
    bench.run()
    status = bench.prefixes.status()
    assert status.hits + status.misses == 3
    assert status.prompt_tokens == 9


def test_of_a_moving_window_the_prefix_that_ends_first_is_continued() -> None:
    bench = bench_of(window=16)
    answer(bench, 1, list(range(100)), max_tokens=1)
    answer(bench, 2, [*range(100), 7, 7, 7], max_tokens=1)
    assert answer(bench, 3, [*range(100), 8, 8]) == 0, "the window of the longer one has moved on"
    bench = bench_of(window=16)
    answer(bench, 1, [*range(100), 7, 7, 7], max_tokens=1)
    assert answer(bench, 2, [*range(100), 8], max_tokens=1, cache_prompt=True) == 0
    assert answer(bench, 3, [*range(100), 8, 9]) == 101
    answer(bench, 4, list(range(200)), max_tokens=1)
    answer(bench, 5, [*range(190), 3], max_tokens=1)
    assert answer(bench, 6, [*range(190), 3, 4, 5]) == 191


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_was_computed_for_it(seed: int) -> None:
    """The bench compares every cell after every step; here a cache under pressure, RAM included."""
    dice = random.Random(seed)
    bench = bench_of(cells=900, context=400, spare=5, ram_bytes=3000, policy=Everybody())
    systems = [[dice.randrange(9) for _ in range(120)] for _ in range(3)]
    for number in range(150):
        system = dice.choice(systems)[: dice.randint(1, 120)]
        prompt = system + [dice.randrange(9) for _ in range(dice.randint(1, 80))]
        bench.add(number, prompt, adapter=dice.choice("ab"), max_tokens=dice.randint(1, 9))
        for _ in range(dice.randrange(6)):
            bench.step()
    bench.run()
    status = bench.prefixes.status()
    assert status.hits > 50
    assert status.restored > 0
    assert status.stored_bytes <= 3000
