"""Adapters that llama.cpp holds itself, because they cannot share a pass, are bounded and read again too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.engine_process import EngineProcess
from tests.lora import random_lora

from llamaleon_server.engine.protocol import AdapterUse, Embed, Failed, LoadAdapter

EXACT = {"flash_attention": False, "kv_type": "f32", "threads": 1, "speculation": False}


@pytest.fixture(scope="module")
def files(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {key: random_lora(stories, folder / f"{key}.gguf", seed=ord(key)) for key in "pqr"}


@pytest.fixture(scope="module")
def expected(stories: Path, files: dict[str, Path]) -> dict[str, list[int]]:
    with EngineProcess(stories, mixing=False, **EXACT) as engine:
        for key, path in files.items():
            engine.load(key, path)
        assert engine.status.bank.warm_adapters == 3
        assert engine.status.bank.warm_bytes > 0
        return {key: answer(engine, key) for key in files}


def answer(engine: EngineProcess, key: str) -> list[int]:
    return engine.generate("Once upon a time", adapters=(AdapterUse(key),), max_tokens=20).tokens


def test_those_not_in_use_leave_and_come_back(
    stories: Path, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    with EngineProcess(stories, mixing=False, adapter_ram_bytes=0, **EXACT) as engine:
        for key, path in files.items():
            engine.load(key, path)
        assert engine.status.bank.warm_adapters == 0
        for key in "pqrpp":
            assert answer(engine, key) == expected[key]
            assert engine.status.bank.warm_adapters <= 1
        together = [
            engine.start("Once upon a time", adapters=(AdapterUse(key),), max_tokens=20) for key in "pqr"
        ]
        assert [one.tokens for one in engine.wait(together)] == [expected[key] for key in "pqr"]
        for key in "qp":
            assert answer(engine, key) == expected[key]
        assert engine.status.bank.cold_adapters == 2


def test_the_least_recently_used_leaves_and_a_pinned_one_stays(
    stories: Path, files: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    room_for_two = 2 * files["p"].stat().st_size + 1000
    with EngineProcess(stories, mixing=False, adapter_ram_bytes=room_for_two, **EXACT) as engine:
        engine.ask(LoadAdapter, key="p", path=str(files["p"]), pinned=True)
        engine.load("q", files["q"])
        engine.load("r", files["r"])  # q leaves: p is older, but pinned
        assert engine.status.bank.warm_adapters == 2
        hidden = files["p"].with_suffix(".hidden")
        files["p"].rename(hidden)  # whoever reads it again is found out
        try:
            for key in "qrqp":
                assert answer(engine, key) == expected[key]
        finally:
            hidden.rename(files["p"])


def test_embeddings_take_turns_with_answers(stories: Path, files: dict[str, Path]) -> None:
    def embedded(engine: EngineProcess) -> list[bytes] | None:
        return engine.ask(Embed, inputs=["Once upon a time"], adapters=(AdapterUse("p"),)).vectors

    with EngineProcess(stories, mixing=False, adapter_ram_bytes=1 << 30, **EXACT) as engine:
        engine.load("p", files["p"])
        wanted = embedded(engine)
        assert wanted != engine.ask(Embed, inputs=["Once upon a time"]).vectors
    with EngineProcess(stories, mixing=False, adapter_ram_bytes=0, **EXACT) as engine:
        for key in "pq":
            engine.load(key, files[key])
        answer(engine, "q")
        assert embedded(engine) == wanted
        answer(engine, "q")
        assert embedded(engine) == wanted


def test_one_whose_file_is_gone_fails_alone_and_is_not_to_blame(
    stories: Path, files: dict[str, Path], expected: dict[str, list[int]], tmp_path: Path
) -> None:
    gone = Path(shutil.copy(files["q"], tmp_path / "gone.gguf"))
    with EngineProcess(stories, mixing=False, adapter_ram_bytes=0, **EXACT) as engine:
        engine.load("p", files["p"])
        engine.load("q", gone)
        gone.unlink()
        running = engine.start("Once upon a time", adapters=(AdapterUse("p"),), max_tokens=20)
        failed = engine.generate("Once upon a time", adapters=(AdapterUse("q"),), max_tokens=4).failed
        assert isinstance(failed, Failed)
        assert failed.code == "engine_error"
        assert "gone.gguf" in failed.message
        (other,) = engine.wait([running])
        assert other.tokens == expected["p"]
