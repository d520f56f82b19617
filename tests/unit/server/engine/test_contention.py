"""What is asked while others fill the bank, the queue or the cache: nobody else fails for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.engine_process import EngineProcess
from tests.lora import random_lora
from tests.unit.server.engine.bench import FixedCost
from tests.unit.server.engine.test_prefix_cache import answer, bench_of

from llamaleon_server.engine.protocol import AdapterUse, Cancel, DumpLogits, Embed, Failed, Reply

pytestmark = pytest.mark.timeout(120)  # an engine that goes round in circles
BLEND = (AdapterUse("a", 0.5), AdapterUse("b", 0.5))
FULL = 32  # ranks: two adapters of 4 take 16 each


@pytest.fixture
def files(stories: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        name: random_lora(stories, tmp_path / f"{name}.gguf", seed=seed, rank=4)
        for seed, name in enumerate("abcd")
    }


def loaded(engine: EngineProcess, files: dict[str, Path]) -> None:
    for key, path in files.items():
        engine.load(key, path)


def test_an_embedding_under_a_blend_waits_for_room_in_the_bank(stories: Path, files: dict[str, Path]) -> None:
    with EngineProcess(stories, threads=1, bank_ranks=FULL) as engine:
        loaded(engine, files)
        running = engine.start("Once", adapters=(AdapterUse("c"),), max_tokens=400, ignore_eos=True)
        assert isinstance(engine.try_ask(Embed, inputs=["hello"], adapters=BLEND), Reply)
        (other,) = engine.wait([running])
        assert other.done.completion_tokens == 400


def test_a_blend_whose_file_is_gone_fails_alone(stories: Path, files: dict[str, Path]) -> None:
    """It exceeds the bank, so llama.cpp reads its own copies when it first runs."""
    with EngineProcess(stories, threads=1, bank_ranks=16) as engine:
        loaded(engine, files)
        running = engine.start("Once", max_tokens=300, ignore_eos=True)
        files["b"].unlink()
        refused = engine.generate("Once", adapters=BLEND, max_tokens=4)
        assert refused.failed is not None
        assert str(files["b"]) in refused.failed.message
        (other,) = engine.wait([running])
        assert other.done.completion_tokens == 300


def test_a_dump_waits_for_room_in_the_bank(stories: Path, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    with EngineProcess(stories, threads=1, bank_ranks=FULL) as engine:
        loaded(engine, files)
        running = [
            engine.start("Once", adapters=(AdapterUse(key),), max_tokens=480, ignore_eos=True) for key in "cd"
        ]
        reply = engine.try_ask(DumpLogits, sequences=[[1, 2, 3]], adapters=BLEND, path=str(path))
        assert isinstance(reply, Reply)
        assert path.exists()
        assert [other.done.completion_tokens for other in engine.wait(running)] == [480, 480]


def test_a_cancelled_dump_ends_and_leaves_nothing(stories: Path, tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    with EngineProcess(stories, threads=1) as engine:
        number = engine.new_id()
        sequences = [[1] * 256] * 400
        engine.send(DumpLogits(id=number, sequences=sequences, adapters=(), path=str(path)))
        partial = path.with_name(path.name + ".partial")
        deadline = time.monotonic() + 60
        while not partial.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        engine.send(Cancel(number))
        assert engine.generate("Once", max_tokens=3).done.completion_tokens
        assert number not in engine.replies, "it had not ended of itself"
        assert list(tmp_path.iterdir()) == []


def test_more_embeddings_than_may_wait_are_refused(stories: Path) -> None:
    with EngineProcess(stories, threads=1, queue_limit=2) as engine:
        numbers = [engine.new_id() for _ in range(40)]
        for number in numbers:
            engine.send(Embed(id=number, inputs=[[1] * 400] * 4))
        replies = [engine.wait_reply(number) for number in numbers]
        refused = {reply.code for reply in replies if isinstance(reply, Failed)}
        assert refused == {"queue_full"}
        assert isinstance(replies[0], Reply)
        assert isinstance(engine.try_ask(Embed, inputs=["hello"]), Reply)


def test_what_is_stored_comes_back_where_more_must_give_way_than_is_asked_of_it() -> None:
    """All of a long conversation is brought back before its end is cut off: idle prefixes make the room."""
    bench = bench_of(cells=1000, context=1000, ram_bytes=1 << 30, cost=FixedCost(0.0, 1.0))
    long, other = list(range(900)), list(range(2000, 2600))
    answer(bench, 1, long)
    answer(bench, 2, other)  # puts the long one into RAM
    assert answer(bench, 3, long[:300]) == 299
