"""Sampler chains on real logits, against the distributions they should draw from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.loading import Loaded
from llamaleon_server.binding.sampler import Sampler, SamplerSettings

DRAWS = 4000
Row = NDArray[np.float64]


def settings(**fields: Any) -> SamplerSettings:
    return SamplerSettings(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1} | fields)


@pytest.fixture(scope="module")
def evaluated(loaded: Loaded) -> tuple[Loaded, int, Row]:
    """A context that holds logits, the index of their token in the batch, and a copy of them."""
    tokens = loaded.model.vocabulary.tokenize("Tom saw a big", add_special=True, parse_special=False)
    batch = Batch(64)
    batch.add(tokens, 0, 0, 1)
    assert loaded.context.decode(batch)
    return loaded, len(tokens) - 1, loaded.context.logits(1)[0].astype(np.float64)


def draw(evaluated: tuple[Loaded, int, Row], count: int, **fields: Any) -> Counter[int]:
    loaded, index, _ = evaluated
    sampler = Sampler(settings(**fields), loaded.model.vocabulary.size)
    try:
        return Counter(sampler.sample(loaded.context, index) for _ in range(count))
    finally:
        sampler.close()


def softmax(row: Row) -> Row:
    powers: Row = np.exp(row - row.max())
    return np.asarray(powers / powers.sum())


def assert_drawn_from(counts: Counter[int], probabilities: Row) -> None:
    """Every likely token within five standard deviations, and none that is impossible."""
    for token in counts:
        assert probabilities[token] > 0, token
    for likely in np.flatnonzero(probabilities > 0.01):
        token = int(likely)
        expected = DRAWS * probabilities[token]
        assert abs(counts[token] - expected) < 5 * np.sqrt(expected * (1 - probabilities[token])) + 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(evaluated: tuple[Loaded, int, Row], temperature: float) -> None:
    assert_drawn_from(draw(evaluated, DRAWS, temperature=temperature), softmax(evaluated[2] / temperature))


def test_top_k(evaluated: tuple[Loaded, int, Row]) -> None:
    row = evaluated[2]
    kept = np.where(row >= np.sort(row)[-5], row, -np.inf)
    assert_drawn_from(draw(evaluated, DRAWS, top_k=5), softmax(kept))


def test_top_p(evaluated: tuple[Loaded, int, Row]) -> None:
    row = evaluated[2]
    order = np.argsort(-row)
    kept = order[: np.searchsorted(np.cumsum(softmax(row)[order]), 0.6) + 1]
    cut = np.full_like(row, -np.inf)
    cut[kept] = row[kept]
    assert_drawn_from(draw(evaluated, DRAWS, top_p=0.6), softmax(cut))


def test_min_p(evaluated: tuple[Loaded, int, Row]) -> None:
    row = evaluated[2]
    cut = np.where(softmax(row) >= 0.2 * softmax(row).max(), row, -np.inf)
    assert_drawn_from(draw(evaluated, DRAWS, min_p=0.2), softmax(cut))


def test_bias(evaluated: tuple[Loaded, int, Row]) -> None:
    row = evaluated[2].copy()
    best, other = int(row.argmax()), int(row.argmin())
    row[best], row[other] = -np.inf, row[other] + 20
    assert_drawn_from(draw(evaluated, DRAWS, bias={best: -np.inf, other: 20.0}), softmax(row))


@pytest.mark.parametrize(
    ("fields", "penalty"),
    [({"frequency_penalty": 2.0}, lambda n: 2.0 * n), ({"presence_penalty": 4.0}, lambda n: 4.0 * (n > 0))],
)
def test_penalties_follow_what_was_drawn(
    evaluated: tuple[Loaded, int, Row], fields: dict[str, float], penalty: Any
) -> None:
    loaded, index, row = evaluated
    sampler = Sampler(settings(temperature=0.0, **fields), loaded.model.vocabulary.size)
    counts = np.zeros(len(row))
    for _ in range(30):
        token = sampler.sample(loaded.context, index)
        assert token == int((row - penalty(counts)).argmax())
        counts[token] += 1
    sampler.close()


def test_repeat_penalty_also_sees_the_prompt(evaluated: tuple[Loaded, int, Row]) -> None:
    loaded, index, row = evaluated
    best = int(row.argmax())
    sampler = Sampler(settings(temperature=0.0, repeat_penalty=1000.0), loaded.model.vocabulary.size)
    sampler.read_prompt([best])
    assert sampler.sample(loaded.context, index) != best
    sampler.close()


def test_a_seed_repeats_its_draws(evaluated: tuple[Loaded, int, Row]) -> None:
    def sequence(seed: int) -> list[int]:
        loaded, index, _ = evaluated
        sampler = Sampler(settings(seed=seed, temperature=2.0), loaded.model.vocabulary.size)
        drawn = [sampler.sample(loaded.context, index) for _ in range(20)]
        sampler.close()
        return drawn

    assert sequence(5) == sequence(5) != sequence(6)
    assert sequence(2**32 - 1) == sequence(2**32 - 1), "llama.cpp's word for a random seed is not one here"


def test_the_largest_logit_alone_needs_no_chain() -> None:
    assert settings(temperature=0.0).is_argmax
    assert not settings(temperature=0.0, bias={1: 1.0}).is_argmax
    assert not settings(temperature=0.0, repeat_penalty=1.1).is_argmax
    assert not settings(temperature=0.1).is_argmax
