"""Watched folders: what is dropped in answers, what changes becomes a version, what goes is retired."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.peft import write_peft
from tests.unit.server.registry.small import write_base

from llamaleon_server.errors import ModelNotFound
from llamaleon_server.registry import watch
from llamaleon_server.registry.hot import load_adapter
from llamaleon_server.registry.records import AdapterVersion, Base
from llamaleon_server.registry.registry import Registry
from llamaleon_server.registry.watch import Watcher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


@asynccontextmanager
async def watching(registry: Registry, folder: Path) -> AsyncIterator[Watcher]:
    watcher = Watcher(registry, [folder])
    task = asyncio.create_task(watcher.run())
    await asyncio.sleep(0.1)
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


def versions(registry: Registry, name: str) -> list[int]:
    try:
        return [version.version for version in registry.versions(name)]
    except ModelNotFound:
        return []


async def test_what_lies_there_at_the_start_is_taken_in_once(
    registry: Registry, base: Base, folder: Path
) -> None:
    random_lora(base.path, folder / "sql.gguf", seed=1)
    write_peft(folder / "tono")
    (folder / "notes.txt").write_text("no adapter")
    (folder / ".hidden.gguf").write_text("no adapter")
    for _ in range(2):  # the second start finds nothing new
        async with watching(registry, folder):
            await until(lambda: versions(registry, "sql") == [1] and versions(registry, "tono") == [1])
    assert len(registry.adapters()) == 2


async def test_dropped_in_changed_and_removed(
    registry: Registry, base: Base, folder: Path, tmp_path: Path
) -> None:
    async with watching(registry, folder):
        shutil.copy(random_lora(base.path, tmp_path / "one.gguf", seed=1), folder / "sql.gguf")
        await until(lambda: versions(registry, "tiny+sql") == [1])
        shutil.copy(random_lora(base.path, tmp_path / "two.gguf", seed=2), folder / "sql.gguf")
        await until(lambda: versions(registry, "tiny+sql") == [1, 2])
        (folder / "sql.gguf").unlink()
        await until(lambda: versions(registry, "tiny+sql") == [])
    assert registry.watched.all() == []


async def test_a_file_being_written_is_taken_when_it_is_whole(
    registry: Registry, base: Base, folder: Path, tmp_path: Path
) -> None:
    data = random_lora(base.path, tmp_path / "one.gguf", seed=1).read_bytes()
    async with watching(registry, folder):
        with (folder / "slow.gguf").open("wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 5 + 1):
                file.write(data[start : start + len(data) // 5 + 1])
                await asyncio.sleep(0.12)
                if file.tell() < len(data):
                    assert versions(registry, "slow") == []
        await until(lambda: versions(registry, "slow") == [1])
    assert registry.resolve("slow").adapters[0][0].path.read_bytes() == data
    assert registry.watched.failures() == []


async def test_a_file_that_is_replaced_while_it_is_taken_in_is_taken_again(
    registry: Registry, base: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = random_lora(base.path, tmp_path / "two.gguf", seed=2)

    async def slow(*args: Any, **options: Any) -> AdapterVersion:
        version = await load_adapter(*args, **options)
        if version.version == 1:
            shutil.copy(second, folder / "sql.gguf")
            await asyncio.sleep(0.5)  # the kernel reports it meanwhile
        return version

    monkeypatch.setattr(watch, "load_adapter", slow)
    async with watching(registry, folder):
        shutil.copy(random_lora(base.path, tmp_path / "one.gguf", seed=1), folder / "sql.gguf")
        await until(lambda: versions(registry, "tiny+sql") == [1, 2])
    assert registry.resolve("sql").adapters[0][0].path.read_bytes() == second.read_bytes()


async def test_a_bad_file_is_recorded_and_the_watcher_lives(
    registry: Registry, base: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.1)
    random_lora(base.path, folder / "with space.gguf", seed=1)
    async with watching(registry, folder):
        (folder / "bad.gguf").write_bytes(b"GGUF, or so it says")
        await until(lambda: len(registry.watched.failures()) == 2)
        bad, space = registry.watched.failures()
        assert bad.name == "bad"
        assert "GGUF" in (bad.reason or "")
        assert "cannot name" in (space.reason or "")
        shutil.copy(random_lora(base.path, tmp_path / "good.gguf", seed=2), folder / "bad.gguf")
        await until(lambda: versions(registry, "bad") == [1])
    assert [file.name for file in registry.watched.failures()] == ["with space"]


async def test_what_failed_is_tried_again_when_a_base_has_come(
    registry: Registry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.1)
    write_peft(folder / "early")
    async with watching(registry, folder) as watcher:
        await until(lambda: len(registry.watched.failures()) == 1)
        registry.add_base(write_base(tmp_path / "tiny.gguf"))
        watcher.rescan()
        await until(lambda: versions(registry, "tiny+early") == [1])


async def test_what_went_while_nobody_watched_is_retired_at_the_start(
    registry: Registry, base: Base, folder: Path
) -> None:
    random_lora(base.path, folder / "sql.gguf", seed=1)
    async with watching(registry, folder):
        await until(lambda: versions(registry, "sql") == [1])
    (folder / "sql.gguf").unlink()
    async with watching(registry, folder):
        await until(lambda: versions(registry, "sql") == [])


async def test_versions_from_elsewhere_survive_the_removal_of_the_file(
    registry: Registry, base: Base, folder: Path, tmp_path: Path
) -> None:
    async with watching(registry, folder):
        random_lora(base.path, folder / "sql.gguf", seed=1)
        await until(lambda: versions(registry, "sql") == [1])
        await load_adapter(registry, "sql", random_lora(base.path, tmp_path / "x.gguf", seed=2), replace=True)
        (folder / "sql.gguf").unlink()
        await until(lambda: versions(registry, "sql") == [2])


async def test_a_folder_that_is_missing_is_made_and_watched(
    registry: Registry, base: Base, tmp_path: Path
) -> None:
    folder = tmp_path / "later" / "watched"
    async with watching(registry, folder):
        await until(folder.is_dir)
        random_lora(base.path, folder / "sql.gguf", seed=1)
        await until(lambda: versions(registry, "sql") == [1])
