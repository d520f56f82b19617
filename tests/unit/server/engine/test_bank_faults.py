"""Bad adapters, too many adapters, too large ones: nobody else notices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_process import EngineProcess
from tests.lora import poison, random_lora
from tests.unit.server.engine.reference import Mix, Reference, ask_all, open_reference

from llamaleon_server.engine.protocol import AdapterUse, Failed, LoadAdapter, Reply, UnloadAdapter

pytestmark = pytest.mark.timeout(120)  # an engine that goes round in circles
EXACT: dict[str, Any] = {"threads": 1, "flash_attention": False, "kv_type": "f32"}
USUAL: dict[str, Any] = {"threads": 1, "parallel_sequences": 8}  # 16-bit cells, flash attention
PROMPTS = [[1, *random.Random(seed).choices(range(259, 512), k=5 + 7 * seed)] for seed in range(3)]
BASE: Mix = ()


@pytest.fixture
def reference(stories: Path) -> Iterator[Reference]:
    with open_reference(stories, [2]) as opened:
        yield opened


def only(key: str) -> Mix:
    return ((key, 1.0),)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e6])
def test_numbers_that_are_not_finite_harm_only_their_own_adapter(
    stories: Path, adapter_files: dict[str, Path], reference: Reference, tmp_path: Path, value: float
) -> None:
    """Infinity in one sequence's cells spoils all: attention multiplies what they must not see by 0."""
    bad = poison(random_lora(stories, tmp_path / "x.gguf", seed=5, rank=8), tmp_path / "bad.gguf", value)
    others = [(prompt, mix) for prompt in PROMPTS for mix in (BASE, only("a"), only("b"))]
    reference.rough = True
    with EngineProcess(stories, **USUAL) as engine:
        for key in ("a", "b"):
            engine.load(key, adapter_files[key])
        reply = engine.try_ask(LoadAdapter, key="bad", path=str(bad))
        if isinstance(reply, Failed):
            assert (reply.code, str(bad) in reply.message) == ("adapter_refused", True)
        else:
            harmed = [engine.start(prompt, adapters=(AdapterUse("bad"),), max_tokens=9) for prompt in PROMPTS]
            ask_all(engine, reference, adapter_files, others)
            for answer in engine.wait(harmed):
                assert answer.failed is not None, "numbers that are not finite choose no token"
                assert answer.failed.code == "engine_error"
            engine.ask(UnloadAdapter, key="bad")
        engine.load("c", adapter_files["c"])  # of half the rank, perhaps where the bad one was
        ask_all(engine, reference, adapter_files, [*others, (PROMPTS[0], only("c"))])
        assert sorted(engine.status.adapters) == ["a", "b", "c"]


def test_an_absurd_weight_harms_only_its_own_request(
    stories: Path, adapter_files: dict[str, Path], reference: Reference
) -> None:
    """It comes while others are in the middle of their answers."""
    reference.rough = True
    jobs = [(prompt, mix) for prompt in PROMPTS for mix in (BASE, only("a"), (("a", 0.5), ("b", 0.5)))]
    with EngineProcess(stories, **USUAL) as engine:
        for key in ("a", "b"):
            engine.load(key, adapter_files[key])
        running = [
            engine.start(
                prompt, adapters=tuple(AdapterUse(*use) for use in mix), max_tokens=60, ignore_eos=True
            )
            for prompt, mix in jobs
        ]
        for weight in (1e6, -1e30, 3e38):
            engine.receive()
            answer = engine.generate(PROMPTS[1], adapters=(AdapterUse("a", weight),), max_tokens=9)
            assert answer.failed is not None, weight
            assert answer.failed.code in ("engine_error", "bad_request")
        for (prompt, mix), answer in zip(jobs, engine.wait(running), strict=True):
            assert answer.done.completion_tokens == 60
            uses = tuple((adapter_files[key], weight) for key, weight in mix)
            reference.judge(prompt, uses, answer, ignore_eos=True, about=mix)


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.2])
def test_a_truncated_file_is_refused(
    stories: Path, adapter_files: dict[str, Path], reference: Reference, tmp_path: Path, keep: float
) -> None:
    whole = adapter_files["b"].read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * keep)])
    with EngineProcess(stories, **EXACT) as engine:
        engine.load("a", adapter_files["a"])
        reply = engine.try_ask(LoadAdapter, key="b", path=str(cut))
        assert isinstance(reply, Failed)
        assert (reply.code, str(cut) in reply.message) == ("adapter_refused", True)
        engine.load("b", adapter_files["b"])
        ask_all(engine, reference, adapter_files, [(PROMPTS[1], mix) for mix in (BASE, only("a"), only("b"))])


def test_the_same_contents_twice(
    stories: Path, adapter_files: dict[str, Path], reference: Reference, tmp_path: Path
) -> None:
    """Under one key it is one adapter; under two, halves of both are the whole."""
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(adapter_files["a"].read_bytes())
    files = adapter_files | {"copy": copy}
    with EngineProcess(stories, **EXACT, parallel_sequences=8) as engine:
        engine.load("a", adapter_files["a"])
        engine.load("a", copy)
        assert engine.status.adapters == ["a"]
        engine.load("copy", copy)
        halves = (("a", 0.5), ("copy", 0.5))
        jobs = [(prompt, mix) for prompt in PROMPTS for mix in (only("a"), halves, only("copy"), BASE)]
        answers = ask_all(engine, reference, files, jobs)
        assert answers[0].tokens == answers[1].tokens == answers[2].tokens != answers[3].tokens
        engine.ask(UnloadAdapter, key="a")
        ask_all(engine, reference, files, [(PROMPTS[2], only("copy"))])
        assert engine.status.adapters == ["copy"]


def test_loads_and_unloads_that_overtake_each_other(
    stories: Path, adapter_files: dict[str, Path], reference: Reference
) -> None:
    load, unload = LoadAdapter, UnloadAdapter
    with EngineProcess(stories, **EXACT, parallel_sequences=8) as engine:
        for kinds in [(load, unload), (unload, load, load), (load, unload, load), (load, load, unload)]:
            numbers = [engine.new_id() for _ in kinds]
            for kind, number in zip(kinds, numbers, strict=True):
                path = str(adapter_files["a"])
                engine.send(
                    load(id=number, key="a", path=path) if kind is load else unload(id=number, key="a")
                )
            assert all(isinstance(engine.wait_reply(number), Reply) for number in numbers)
            there = kinds[-1] is load
            assert engine.status.adapters == ["a"] * there
            if there:
                ask_all(engine, reference, adapter_files, [(PROMPTS[0], only("a"))])


def test_a_rank_larger_than_the_bank(
    stories: Path, adapter_files: dict[str, Path], reference: Reference, tmp_path: Path
) -> None:
    files = adapter_files | {"large": random_lora(stories, tmp_path / "l.gguf", seed=7, rank=48)}
    mixes: list[Mix] = [BASE, only("a"), only("large"), (("a", 0.5), ("large", 0.5)), only("b")]
    with EngineProcess(stories, **EXACT, parallel_sequences=8, bank_ranks=12) as engine:
        for key in ("a", "b", "large"):
            engine.load(key, files[key])
        ask_all(engine, reference, files, [(prompt, mix) for prompt in PROMPTS for mix in mixes])
        alone = engine.status.bank.alone
        assert alone.keys() == {"large"}
        assert "48" in alone["large"]


def test_a_blend_larger_than_the_bank(
    stories: Path, adapter_files: dict[str, Path], reference: Reference
) -> None:
    everything: Mix = (("a", 0.4), ("b", 0.4), ("c", 0.4))
    with EngineProcess(stories, **EXACT, parallel_sequences=8, bank_ranks=8) as engine:
        for key, path in adapter_files.items():
            engine.load(key, path)
        mixes = [BASE, everything, only("a"), only("b"), only("c")]
        ask_all(engine, reference, adapter_files, [(prompt, mix) for prompt in PROMPTS for mix in mixes])


@pytest.mark.parametrize("options", [{}, {"adapter_ram_bytes": 0}, {"bank_ranks": 16}, {"mixing": False}])
def test_forty_adapters_in_a_bank_of_four(
    stories: Path, reference: Reference, tmp_path: Path, options: dict[str, Any]
) -> None:
    files = {f"{n}": random_lora(stories, tmp_path / f"{n}.gguf", seed=n, rank=4) for n in range(40)}
    dice = random.Random(3)
    with EngineProcess(stories, **EXACT, parallel_sequences=8, **({"bank_ranks": 64} | options)) as engine:
        for key, path in files.items():
            engine.load(key, path)
        for key in files:
            ask_all(engine, reference, files, [(PROMPTS[1], only(key))])
        jobs = [(dice.choice(PROMPTS), only(dice.choice(list(files)))) for _ in range(60)]
        blends = [
            (dice.choice(PROMPTS), tuple((key, 0.5) for key in dice.sample(list(files), 3))) for _ in range(9)
        ]
        ask_all(engine, reference, files, [*jobs, *blends])
        bank = engine.status.bank
        if bank.mixing:
            assert (len(bank.hot) <= 4, bank.used_ranks <= 64, bank.evictions >= 36) == (True, True, True)
        else:
            assert "mixing" in (bank.reason or ""), "the setting is named"
        for key in files:
            engine.ask(UnloadAdapter, key=key)
        status = engine.status
        assert (status.adapters, status.bank.hot, status.bank.used_ranks) == ([], [], 0)


def test_a_file_that_vanished_harms_only_its_own_adapter(
    stories: Path, adapter_files: dict[str, Path], reference: Reference, tmp_path: Path
) -> None:
    """It was on disk only: what cannot be read again fails by name, or is still there and right."""
    files = adapter_files | {"gone": random_lora(stories, tmp_path / "gone.gguf", seed=8)}
    with EngineProcess(stories, **EXACT, parallel_sequences=8, bank_ranks=8, adapter_ram_bytes=0) as engine:
        for key, path in files.items():
            engine.load(key, path)
        ask_all(engine, reference, files, [(PROMPTS[0], only("gone"))])
        kept = files["gone"].read_bytes()
        files["gone"].unlink()
        ask_all(engine, reference, files, [(PROMPTS[0], only(key)) for key in "abc"])  # it has to leave
        number = engine.start(PROMPTS[1], adapters=(AdapterUse("gone"),), max_tokens=9)
        ask_all(engine, reference, files, [(PROMPTS[0], only(key)) for key in "abc"])
        (answer,) = engine.wait([number])
        files["gone"].write_bytes(kept)
        if answer.failed is None:
            reference.judge(PROMPTS[1], ((files["gone"], 1.0),), answer)
        else:
            assert str(files["gone"]) in answer.failed.message
        ask_all(engine, reference, files, [(PROMPTS[2], mix) for mix in (BASE, only("a"), only("b"))])
