"""The adapter bank through a real engine: who lies in it, who leaves, and that nobody's answer shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.engine.protocol import AdapterUse, Failed, LoadAdapter

SLOT_RANKS = 16  # what an adapter of rank 4 takes
KEYS = tuple("pqrstu")
EXACT = {"flash_attention": False, "kv_type": "f32", "threads": 1, "speculation": False}


@pytest.fixture(scope="module")
def files(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bank")
    return {key: random_lora(stories, folder / f"{key}.gguf", seed=ord(key)) for key in KEYS}


@pytest.fixture(scope="module")
def expected(stories: Path, files: dict[str, Path]) -> dict[str, list[int]]:
    """Each adapter's answer where nothing is mixed: llama.cpp's own adapters, one after the other."""
    with EngineProcess(stories, mixing=False, **EXACT) as engine:
        return {key: answer_of(engine, key, path) for key, path in files.items()}


@pytest.fixture
def small(stories: Path) -> Iterator[EngineProcess]:
    """An engine whose bank takes two adapters."""
    with EngineProcess(stories, bank_ranks=2 * SLOT_RANKS, **EXACT) as engine:
        yield engine


def answer_of(engine: EngineProcess, key: str, path: Path) -> list[int]:
    engine.load(key, path)
    return engine.generate("Once upon a time", adapters=(AdapterUse(key),), max_tokens=20).tokens


def start(engine: EngineProcess, key: str, tokens: int = 20) -> int:
    return engine.start(
        "Once upon a time", adapters=(AdapterUse(key),), max_tokens=tokens, cache_prompt=False
    )


def hot(engine: EngineProcess) -> set[str]:
    return {adapter.key for adapter in engine.status.bank.hot}


def test_all_pass_together(stories: Path, files: dict[str, Path], expected: dict[str, list[int]]) -> None:
    with EngineProcess(stories, **EXACT) as engine:
        for key, path in files.items():
            engine.load(key, path)
        answers = engine.wait([start(engine, key) for key in KEYS])
        assert {key: answer.tokens for key, answer in zip(KEYS, answers, strict=True)} == expected
        status = engine.status
    assert status.bank.mixing
    assert status.bank.reason is None
    assert status.step.mixed_steps > 0
    assert answers[0].done.timings.adapters_in_batch > len(KEYS) / 2
    # One answer's worth of passes, not six.
    assert status.step.steps < 2 * len(expected["p"])


def test_one_adapter_alone_is_not_intercepted(stories: Path, files: dict[str, Path]) -> None:
    with EngineProcess(stories, **EXACT) as engine:
        engine.load("p", files["p"])
        engine.wait([start(engine, "p")])  # the first pass under a new bank looks at all of it
        before = engine.status.step
        engine.wait([start(engine, "p"), start(engine, "p")])
        after = engine.status.step
    assert after.steps > before.steps
    assert after.intercepted_steps == before.intercepted_steps


def test_more_adapters_than_the_bank_holds_take_turns(
    small: EngineProcess, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    for key, path in files.items():
        small.load(key, path)
    answers = small.wait([start(small, key) for key in KEYS])
    assert {key: answer.tokens for key, answer in zip(KEYS, answers, strict=True)} == expected
    bank = small.status.bank
    assert bank.total_ranks == 2 * SLOT_RANKS
    assert bank.copies == len(KEYS)
    assert bank.evictions == len(KEYS) - 2
    assert bank.rebuilds == 1


def test_a_long_answer_does_not_keep_the_bank_to_itself(small: EngineProcess, files: dict[str, Path]) -> None:
    for key in "pqr":
        small.load(key, files[key])
    long = [start(small, key, tokens=300) for key in "pq"]
    while small.answers[long[0]].deltas < 5:
        small.receive()
    short = small.wait([start(small, "r")])[0]
    assert small.answers[long[0]].finish is None
    assert short.done.reason in ("stop", "length")
    small.wait(long)


def test_the_least_recently_used_leaves_and_the_pinned_stays(
    small: EngineProcess, files: dict[str, Path]
) -> None:
    small.ask(LoadAdapter, key="p", path=str(files["p"]), pinned=True)
    for key in "qrs":
        small.load(key, files[key])
    for key in "pqrs":
        small.wait([start(small, key, tokens=2)])
    assert hot(small) == {"p", "s"}
    small.ask(LoadAdapter, key="p", path=str(files["p"]), pinned=False)
    for key in "qr":
        small.wait([start(small, key, tokens=2)])
    assert hot(small) == {"q", "r"}


def test_an_arrival_copies_and_rebuilds_nothing(stories: Path, files: dict[str, Path]) -> None:
    with EngineProcess(stories, **EXACT) as engine:
        for key, path in files.items():
            engine.load(key, path)
        engine.wait([start(engine, "p", tokens=2)])
        rebuilds = engine.status.bank.rebuilds
        running = start(engine, "p", tokens=60)
        for key in KEYS[1:]:
            engine.wait([start(engine, key, tokens=2)])
        engine.wait([running])
        assert engine.status.bank.rebuilds == rebuilds
        assert engine.status.bank.copies == len(KEYS)


def test_a_replaced_adapter_is_the_new_one(
    small: EngineProcess, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    """A new version has another key; the old one's ranks go to it once nobody runs under it."""
    assert answer_of(small, "p", files["p"]) == expected["p"]
    assert answer_of(small, "q", files["q"]) == expected["q"]
    assert answer_of(small, "r", files["r"]) == expected["r"]
    assert answer_of(small, "p", files["p"]) == expected["p"]


def test_a_wider_adapter_makes_the_bank_anew(
    stories: Path, files: dict[str, Path], tmp_path: Path, expected: dict[str, list[int]]
) -> None:
    """Other target modules, a rank beyond the bank's size, and weights of another type, while others run."""
    narrow = random_lora(stories, tmp_path / "narrow.gguf", seed=1, targets=("attn_q",))
    large = random_lora(stories, tmp_path / "large.gguf", seed=2, rank=200)
    half = random_lora(stories, tmp_path / "half.gguf", seed=3, rank=16, dtype="F16")
    others = {"narrow": narrow, "large": large, "half": half}
    with EngineProcess(stories, mixing=False, **EXACT) as engine:
        wanted = {key: answer_of(engine, key, path) for key, path in others.items()}
    with EngineProcess(stories, **EXACT) as engine:
        for key, path in (others | files).items():
            engine.load(key, path)
        order = ["narrow", "p", "half", "q", "large", "r", "narrow", "half"]
        answers = engine.wait([start(engine, key) for key in order])
        status = engine.status
    for key, answer in zip(order, answers, strict=True):
        assert answer.tokens == (wanted | expected)[key], key
    assert status.bank.rebuilds >= 2
    assert status.step.mixed_steps > 0


def test_a_rank_beyond_the_limit_is_served_alone(
    small: EngineProcess,
    stories: Path,
    tmp_path: Path,
    files: dict[str, Path],
    expected: dict[str, list[int]],
) -> None:
    large = random_lora(stories, tmp_path / "large.gguf", seed=2, rank=48)
    small.load("large", large)
    small.load("p", files["p"])
    answers = small.wait([start(small, "large"), start(small, "p"), start(small, "large")])
    assert answers[1].tokens == expected["p"]
    assert answers[0].tokens == answers[2].tokens
    assert answers[0].tokens != answers[1].tokens
    assert "48" in small.status.bank.alone["large"]
    assert "bank_ranks" in small.status.bank.alone["large"]


def test_what_does_not_fit_into_ram_is_read_again(
    stories: Path, tmp_path: Path, expected: dict[str, list[int]], files: dict[str, Path]
) -> None:
    with EngineProcess(stories, bank_ranks=SLOT_RANKS, adapter_ram_bytes=0, **EXACT) as engine:
        for key in "pqp":
            assert answer_of(engine, key, files[key]) == expected[key]
        assert engine.status.bank.warm_adapters == 0
        assert engine.status.bank.cold_adapters == 2
        gone = tmp_path / "gone.gguf"
        gone.write_bytes(files["r"].read_bytes())
        assert answer_of(engine, "r", gone) == expected["r"]
        answer_of(engine, "p", files["p"])
        gone.unlink()
        failed = engine.wait([start(engine, "r")])[0].failed
        assert isinstance(failed, Failed)
        assert failed.code == "engine_error"  # the adapter is not a bad one for that
        assert "gone.gguf" in failed.message
        assert answer_of(engine, "p", files["p"]) == expected["p"]


def test_without_mixing_it_says_why_and_serves(
    stories: Path, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    with EngineProcess(stories, mixing=False, **EXACT) as engine:
        for key in "pq":
            engine.load(key, files[key])
        answers = engine.wait([start(engine, key) for key in "pqp"])
        assert [answer.tokens for answer in answers] == [expected[key] for key in "pqp"]
        bank = engine.status.bank
        assert not bank.mixing
        assert bank.reason is not None
        assert engine.status.step.mixed_steps == 0


def test_a_pinned_adapter_comes_back(
    small: EngineProcess, stories: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """Something that only fits when all others are out; afterwards the pinned one is in its place again."""
    for key in "pq":
        small.load(key, files[key])
        small.wait([start(small, key, tokens=2)])
    small.ask(LoadAdapter, key="q", path=str(files["q"]), pinned=True)
    assert hot(small) == {"p", "q"}
    small.load("wide", random_lora(stories, tmp_path / "wide.gguf", seed=5, targets=("attn_q", "output")))
    small.wait([start(small, "wide", tokens=3)])  # the bank is made anew for its head
    small.wait([start(small, "p", tokens=3)])
    assert "q" in hot(small)


def test_a_blend_larger_than_the_bank_is_served_alone(
    small: EngineProcess, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    for key in "pqr":
        small.load(key, files[key])
    blend = tuple(AdapterUse(key, weight) for key, weight in zip("pqr", (0.0001, 1.0, 0.0001), strict=True))
    answers = small.wait([small.start("Once upon a time", adapters=blend, max_tokens=8), start(small, "p")])
    assert answers[0].tokens == expected["q"][:8]
    assert answers[1].tokens == expected["p"]
