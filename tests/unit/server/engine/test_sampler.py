"""Draws against llama.cpp's own samplers, and against the distributions that they should come from."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import pytest
from numpy.typing import NDArray

from llamaleon_server.engine.sampling.rows import NotFinite
from llamaleon_server.engine.sampling.sampler import Sampler, SamplerSettings

DRAWS = 4000
Row = NDArray[np.float32]


def settings(**fields: Any) -> SamplerSettings:
    return SamplerSettings(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1} | fields)


def row_of(size: int, seed: int = 0, spread: float = 2.0) -> Row:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def draw(row: Row, count: int, **fields: Any) -> Counter[int]:
    sampler = Sampler(settings(**fields), [])
    return Counter(sampler.draw(row) for _ in range(count))


def native_chain(fields: dict[str, Any], size: int) -> Any:
    """llama.cpp's samplers in the order of its server."""
    chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
    add = [
        native.llama_sampler_init_penalties(
            size,
            64,
            fields.get("repeat_penalty", 1.0),
            fields.get("frequency_penalty", 0.0),
            fields.get("presence_penalty", 0.0),
        ),
        native.llama_sampler_init_top_k(fields.get("top_k", 0)),
        native.llama_sampler_init_top_p(fields.get("top_p", 1.0), 1),
        native.llama_sampler_init_min_p(fields.get("min_p", 0.0), 1),
        native.llama_sampler_init_temp(fields.get("temperature", 1.0)),
        native.llama_sampler_init_dist(1),
    ]
    if bias := fields.get("bias"):
        entries = (native.llama_logit_bias * len(bias))(*bias.items())
        add.insert(0, native.llama_sampler_init_logit_bias(size, len(entries), entries))
    for sampler in add:
        native.llama_sampler_chain_add(chain, sampler)
    return chain


def native_probabilities(row: Row, fields: dict[str, Any], history: list[int]) -> dict[int, float]:
    """Token to probability, as llama.cpp would draw it after `history`."""
    chain = native_chain(fields, len(row))
    for token in history:
        native.llama_sampler_accept(chain, token)
    data = (native.llama_token_data * len(row))(*((i, float(x), 0.0) for i, x in enumerate(row)))
    candidates = native.llama_token_data_array(data, len(row), -1, False)
    native.llama_sampler_apply(chain, ctypes.byref(candidates))
    native.llama_sampler_free(chain)
    return {candidates.data[i].id: candidates.data[i].p for i in range(candidates.size)}


def probabilities(
    row: Row, fields: dict[str, Any], history: list[int], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The weights that the sampler is about to draw from, by token."""
    seen: list[Row] = []

    def last(weights: Row, uniform: float) -> int:
        seen.append(weights / weights.sum())
        return 0

    monkeypatch.setattr("llamaleon_server.engine.sampling.sampler.draw_index", last)
    sampler = Sampler(settings(**fields), [])
    for token in history:
        for edit in sampler._edits:
            edit.accept(token)
    edited = row.copy()
    for edit in sampler._edits:
        changed, logits = edit.changed(edited)
        edited[changed] = logits
    tokens, _ = sampler._truncate(edited, float(edited.max()))
    sampler.draw(row)
    return dict(zip(range(len(row)) if tokens is None else tokens.tolist(), seen[0].tolist(), strict=True))


CHAINS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 40},
    "top_p": {"top_p": 0.9},
    "all": {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 1.3},
    "min_p": {"min_p": 0.1, "temperature": 0.5},
    "bias": {"bias": {5: 3.0, 7: -float("inf"), 11: -1.5}, "top_p": 0.8},
    "penalties": {"frequency_penalty": 0.7, "presence_penalty": -0.4, "top_k": 100},
    "repeat": {"repeat_penalty": 1.4, "frequency_penalty": 0.3, "bias": {3: 1.0}},
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("size", [60, 5000])
def test_the_distribution_is_llama_cpps(chain: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    history = [3, 5, 3, 17, 3, 40]
    for seed in range(3):
        row = row_of(size, seed)
        theirs = native_probabilities(row, CHAINS[chain], history)
        ours = probabilities(row, CHAINS[chain], history, monkeypatch)
        likely = {token: p for token, p in theirs.items() if p > 0}
        assert {token for token, p in ours.items() if p > 0} == set(likely)
        for token, probability in likely.items():
            assert ours[token] == pytest.approx(probability, rel=1e-4, abs=1e-9)


def softmax(row: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(row.astype(np.float64) - row.max())
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("size", [20, 3000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_what_is_drawn_follows_the_distribution(temperature: float, size: int) -> None:
    """Every likely token within five standard deviations."""
    row = row_of(size)
    row[:5] += 8.0
    counts = draw(row, DRAWS, temperature=temperature)
    expected = softmax(row / temperature)
    for likely in np.flatnonzero(expected > 0.01):
        token = int(likely)
        mean = DRAWS * expected[token]
        assert abs(counts[token] - mean) < 5 * np.sqrt(mean * (1 - expected[token])) + 1


@pytest.mark.parametrize(
    ("fields", "penalty"),
    [({"frequency_penalty": 2.0}, lambda n: 2.0 * n), ({"presence_penalty": 4.0}, lambda n: 4.0 * (n > 0))],
)
def test_penalties_follow_what_was_drawn(fields: dict[str, float], penalty: Any) -> None:
    row = row_of(500)
    sampler = Sampler(settings(temperature=0.0, **fields), [])
    counts = np.zeros(len(row), np.float32)
    for _ in range(30):
        token = sampler.draw(row)
        assert token == int((row - penalty(counts)).argmax())
        counts[token] += 1


def test_only_the_repeat_penalty_sees_the_prompt() -> None:
    row = row_of(500) + 10
    best = int(row.argmax())
    assert Sampler(settings(temperature=0.0, repeat_penalty=1000.0), [best]).draw(row) != best
    assert Sampler(settings(temperature=0.0, presence_penalty=100.0), [best]).draw(row) == best


def test_the_row_stays_as_it_is() -> None:
    row = row_of(500)
    before = row.copy()
    draw(row, 5, repeat_penalty=2.0, presence_penalty=1.0, bias={1: 3.0}, top_p=0.5)
    np.testing.assert_array_equal(row, before)


def test_a_seed_repeats_its_draws() -> None:
    row = row_of(500)

    def sequence(seed: int) -> list[int]:
        sampler = Sampler(settings(seed=seed, temperature=2.0), [])
        return [sampler.draw(row) for _ in range(20)]

    assert sequence(5) == sequence(5) != sequence(6)
    assert sequence(2**40) == sequence(2**40) != sequence(0)


def test_every_token_takes_one_random_number() -> None:
    """Also where there is no choice: guessing ahead must not shift what comes later."""
    free, forced = row_of(500), np.full(500, -np.inf, np.float32)
    forced[9] = 0.0
    one, other = (Sampler(settings(top_k=40), []) for _ in range(2))
    assert one.draw(forced) == 9
    other.draw(free)
    assert [one.draw(free) for _ in range(9)] == [other.draw(free) for _ in range(9)]


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-7])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    row = row_of(500)
    assert set(draw(row, 20, temperature=temperature)) == {int(row.argmax())}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float, temperature: float) -> None:
    row = row_of(500)
    row[100] = value
    with pytest.raises(NotFinite):
        draw(row, 1, temperature=temperature)
