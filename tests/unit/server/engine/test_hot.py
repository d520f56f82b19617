"""Places in a bank for which there is less memory than wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data import NANO
from tests.lora import random_lora

from llamaleon_server.binding import adapter_file, library
from llamaleon_server.binding.bank import FIRST_RANK, Bank
from llamaleon_server.binding.errors import BankTooLargeError
from llamaleon_server.binding.mixer import Mixer
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.weights import read_weights
from llamaleon_server.engine.adapters import hot
from llamaleon_server.engine.adapters.hot import HotAdapters
from llamaleon_server.engine.adapters.warm import Known

NOBODY: frozenset[str] = frozenset()


@pytest.fixture
def model() -> Iterator[Model]:
    library.start()
    loaded = Model(NANO, gpu_layers=0)
    yield loaded
    loaded.close()


def known(model: Model, directory: Path, seed: int, rank: int = 16) -> Known:
    path = random_lora(NANO, directory / f"{seed}.gguf", seed=seed, rank=rank, targets=("attn_q",))
    file = adapter_file.check(path, model.header)
    return Known(str(seed), file, None, weights=read_weights(file))


def memory_for(ranks: int, patch: pytest.MonkeyPatch) -> None:
    """As if a larger bank did not fit into the device's memory."""

    def make(model: Model, targets: frozenset[str], kind: str, wanted: int) -> Bank:
        if wanted > FIRST_RANK + ranks:
            raise BankTooLargeError(f"a bank of {wanted} ranks")
        return Bank(model, targets, kind, wanted)

    patch.setattr(hot, "Bank", make)


def test_it_is_as_large_as_memory_allows(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_for(70, monkeypatch)
    adapters = HotAdapters(model, Mixer(), 512, lambda: None)
    for seed in range(5):
        assert adapters.enter(known(model, tmp_path, seed), NOBODY, clock=seed)
    assert (adapters.total_ranks, adapters.limit_ranks, adapters.evictions) == (64, 64, 1)
    assert adapters.entries.keys() == set("1234")
    assert not adapters.enter(known(model, tmp_path, 9), frozenset("1234"), clock=9), "it waits"
    adapters.close()


def test_it_grows_no_further_than_memory_allows(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = HotAdapters(model, Mixer(), 512, lambda: None)
    assert adapters.enter(known(model, tmp_path, 0), NOBODY, clock=0)
    before = adapters.total_ranks
    memory_for(before, monkeypatch)
    protected = set("0")
    for seed in range(1, 9):
        if adapters.enter(known(model, tmp_path, seed), protected, clock=seed):
            protected.add(str(seed))
    assert (adapters.total_ranks, adapters.limit_ranks) == (before, before)
    assert len(adapters.entries) <= before // 16
    adapters.close()


def test_without_memory_for_any_it_says_so(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_for(0, monkeypatch)
    with pytest.raises(BankTooLargeError, match="32 ranks"):
        HotAdapters(model, Mixer(), 512, lambda: None).enter(known(model, tmp_path, 0), NOBODY, clock=0)
