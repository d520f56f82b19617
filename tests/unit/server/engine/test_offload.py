"""Prefixes in RAM: bounded, found again, worth it, and exactly what was computed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_process import EngineProcess
from tests.tiny import kinds
from tests.tiny.speed_model import SMALL, speed_model
from tests.unit.server.engine.bench import Bench, Everybody, FixedCost, Memory, adapters

from llamaleon_server.engine.cache import offload
from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.cache.offload import PrefixStore


class Shelf:
    """A store over fake cells, of 4 bytes a token and 8 a state."""

    def __init__(self, limit: int, *, can_cut: bool = True) -> None:
        self.memory = Memory()
        self.kv = KvCache(self.memory, 10_000, 9)
        self.store = PrefixStore(self.kv, limit, can_cut=can_cut)

    def put(self, tokens: list[int], adapter: str = "") -> None:
        slot = self.kv.open()
        self.memory.cells[slot] = [(adapters(adapter), token) for token in tokens]
        self.kv.extend(slot, len(tokens))
        self.store.put(adapters(adapter), np.array(tokens, np.int32), slot)
        self.kv.close(slot)

    def find(self, tokens: list[int], adapter: str = "") -> int:
        found = self.store.find(adapters(adapter), np.array(tokens, np.int32))
        return found[1] if found else 0


def test_it_is_bounded_and_forgets_the_least_recently_used() -> None:
    shelf = Shelf(3 * (8 + 400))
    for first in range(3):
        shelf.put([first] * 100)
    shelf.put([0] * 50)  # the beginning of one that is there: used
    assert len(shelf.store) == 3
    shelf.put([7] * 100)
    assert [shelf.find([first] * 100) for first in (0, 1, 2, 7)] == [100, 0, 100, 100]
    assert shelf.store.bytes == 3 * 408


def test_what_extends_a_stored_prefix_replaces_it() -> None:
    shelf = Shelf(10_000)
    shelf.put([1] * 100)
    shelf.put([1] * 200)
    assert (len(shelf.store), shelf.find([1] * 300)) == (1, 200)


def test_adapters_do_not_meet() -> None:
    shelf = Shelf(10_000)
    shelf.put([1] * 100, "a")
    assert shelf.find([1] * 100, "a") == 100
    assert shelf.find([1] * 100, "b") == shelf.find([1] * 100) == 0


def test_what_is_too_large_or_too_short_stays_away() -> None:
    shelf = Shelf(408)
    shelf.put([1] * 20)
    assert len(shelf.store) == 0
    shelf.put([2] * 101)
    assert len(shelf.store) == 0
    shelf.put([3] * 100)
    assert (len(shelf.store), shelf.store.bytes) == (1, 408)


def test_a_state_that_cannot_be_cut_is_kept_and_found_whole_or_not_at_all() -> None:
    shelf = Shelf(808, can_cut=False)
    shelf.put([1] * 100)
    assert shelf.find([1] * 100) == 100
    assert shelf.find([1] * 99) == 0
    shelf.put([1] * 150)
    assert len(shelf.store) == 1, "both do not fit, and one does not stand for the other"
    shelf.put([2] * 500)
    assert shelf.find([2] * 600) == 0


def test_while_streams_wait_copies_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "FIRST_GUESS_S", offload.PAUSE_S / 408)  # a hundred tokens take all there is
    shelf = Shelf(100_000)
    shelf.store.begin_step(streams_wait=True)
    shelf.put([1] * 1000)
    assert 32 <= shelf.find([1] * 1000) <= 102, "it has lost its end"
    shelf.store.begin_step(streams_wait=False)
    shelf.put([2] * 1000)
    assert shelf.find([2] * 1000) == 1000


def test_one_slow_copy_back_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, clock = Shelf(100_000), iter(range(0, 1000, 100))
    shelf.put([1] * 100)
    stored, length = shelf.store.find(adapters(""), np.array([1] * 100, np.int32)) or pytest.fail("not there")
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: float(next(clock)))  # a hundred seconds
        assert shelf.store.restore(stored, shelf.kv.open(), length)
    assert shelf.store.restore_s(stored) < 1


@pytest.mark.parametrize(("token_s", "worth_it"), [(1.0, True), (0.0, False)])
def test_it_comes_back_only_if_that_is_quicker_than_computing_it(token_s: float, worth_it: bool) -> None:
    bench = Bench(
        cells=1000,
        context=150,
        batch=512,
        ram_bytes=10_000,
        cost=FixedCost(0.1, token_s),
        policy=Everybody(),
    )
    for number in (1, 2, 1):
        bench.add(number, [number] * 100, max_tokens=1)
        bench.run()
    assert (bench.prefixes.status().restored, bench.prefixes.status().hits) == (worth_it, worth_it)


def test_it_comes_back_although_what_makes_room_for_it_takes_its_place() -> None:
    bench = Bench(cells=150, context=150, batch=512, ram_bytes=600, policy=Everybody())
    for number in (1, 2, 1, 2):
        sequence = bench.add(number, [number] * 100, max_tokens=40)
        bench.run()
    assert sequence.cached_tokens == 99
    assert (bench.prefixes.status().restored, bench.prefixes.status().stored) == (2, 1)


# ---------------------------------------------------------------- llama.cpp


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speed_model(tmp_path_factory.mktemp("small") / "small.gguf", SMALL)


@pytest.mark.parametrize(
    ("kv_type", "flash"), [("f32", False), ("f16", False), ("f16", True), ("q8_0", True)]
)
def test_what_comes_back_is_what_was_computed(small: Path, kv_type: str, flash: bool) -> None:
    options: dict[str, Any] = {"kv_type": kv_type, "flash_attention": flash, "context_tokens": 512}
    dice = random.Random(5)
    prompts = [[dice.randrange(300, 8000) for _ in range(300)] for _ in range(3)]
    with EngineProcess(small, threads=1, parallel_sequences=4, speculation=False, **options) as engine:
        engine.generate(prompts[0], max_tokens=1, ignore_eos=True)
        there = engine.generate(prompts[0], max_tokens=16, ignore_eos=True, logprobs=2)
        for prompt in prompts[1:]:
            engine.generate(prompt, max_tokens=1, ignore_eos=True)
        assert engine.status.prefix.stored == 2
        back = engine.generate(prompts[0], max_tokens=16, ignore_eos=True, logprobs=2)
        assert (there.done.cached_tokens, back.done.cached_tokens) == (299, 299)
        assert engine.status.prefix.restored == 1
        assert back.tokens == there.tokens
        assert [entry.logprob for entry in back.logprobs] == pytest.approx(
            [entry.logprob for entry in there.logprobs], abs=1e-3
        )
        partly = prompts[1][:200] + prompts[2][:50]
        engine.generate(prompts[2], max_tokens=1, ignore_eos=True)
        answer = engine.generate(partly, max_tokens=1, ignore_eos=True)
        assert answer.done.cached_tokens == 200
        assert engine.status.prefix.restored >= 2


def test_nothing_is_stored_if_no_memory_is_given(small: Path) -> None:
    with EngineProcess(small, threads=1, context_tokens=512, prefix_ram_bytes=0) as engine:
        for first in range(3):
            engine.generate([300 + first] * 300, max_tokens=1, ignore_eos=True)
        assert (engine.status.prefix.evictions, engine.status.prefix.stored) == (2, 0)


@pytest.mark.parametrize("write", [kinds.mamba, kinds.jamba, kinds.gemma2])
def test_other_kinds_of_memory_come_back_too(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """A recurrent state and a sliding window are only continued: a conversation is, after five others."""
    path = write(tmp_path / "model.gguf")
    dice = random.Random(2)
    prompts = [[dice.randrange(3, 300) for _ in range(50)] for _ in range(6)]
    exact = {"flash_attention": False, "kv_type": "f32", "speculation": False}
    with EngineProcess(path, threads=1, parallel_sequences=2, context_tokens=128, **exact) as engine:
        first = engine.generate(prompts[0], max_tokens=9, ignore_eos=True)
        for prompt in prompts[1:]:
            engine.generate(prompt, max_tokens=9, ignore_eos=True)
        conversation = prompts[0] + first.tokens + [5, 6]
        continued = engine.generate(conversation, max_tokens=12, ignore_eos=True)
        assert engine.status.prefix.restored == 1
        assert continued.done.cached_tokens >= len(conversation) - 3
        anew = engine.generate(conversation, max_tokens=12, ignore_eos=True, cache_prompt=False)
        assert continued.tokens == anew.tokens
