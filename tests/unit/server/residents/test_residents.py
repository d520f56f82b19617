"""Engines as a group: one start for all, restart after death, idleness, adapters; over the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.server.registry.small import write_base

from llamaleon_convert.manifest import Manifest
from llamaleon_server.engine.protocol import Failed, Generate, GenerateRequest, LoadAdapter, UnloadAdapter
from llamaleon_server.errors import AdapterRefused, EngineFailed, EngineUnavailable, NotFound
from llamaleon_server.registry.records import AdapterVersion, Base, Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FakeEngine, FakeEngines


class Stage:
    """Residents over fake engines, for one base."""

    def __init__(self, base: Base, **settings: Any) -> None:
        self.base = base
        self.engines = FakeEngines()
        self.live: set[str] = set()
        self.pins: list[AdapterVersion] = []
        self.refused: list[tuple[str, str]] = []
        self.residents = Residents(Settings(**settings), open_channel=self.engines.open, records=self)

    # What residents ask the registry.

    def adapter_keys(self) -> set[str]:
        return self.live

    def pinned(self, base: str) -> list[AdapterVersion]:
        assert base == self.base.name
        return self.pins

    def adapter_refused(self, version: AdapterVersion, reason: str) -> bool:
        self.refused.append((version.full_name, reason))
        return True

    def target(self, *keys: str) -> Target:
        return Target(
            requested="x", base=self.base, adapters=tuple((version(self.base, key), 0.5) for key in keys)
        )

    async def say(self, *keys: str, prompt: str = "x") -> str:
        request = GenerateRequest(prompt=prompt)
        return "".join([d.text async for d in self.residents.generate(self.target(*keys), request)])


def version(base: Base, key: str) -> AdapterVersion:
    manifest = Manifest(sha256=key, architecture="llama", rank=4, alpha=4.0, target_tensors=[])
    return AdapterVersion(
        adapter=key,
        base=base.name,
        version=1,
        key=key,
        path=Path(f"/{key}.gguf"),
        state="deployed",
        created=0,
        ft_name=None,
        manifest=manifest,
    )


@pytest.fixture
def base(tmp_path: Path) -> Base:
    registry = Registry.open(tmp_path / "home")
    added = registry.add_base(write_base(tmp_path / "tiny.gguf"))
    registry.close()
    return added


@pytest.fixture
async def stage(base: Base) -> AsyncIterator[Stage]:
    made = Stage(base, idle_unload_s=None)
    yield made
    await made.residents.close()


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_all_first_requests_share_one_start(stage: Stage) -> None:
    stage.engines.load_s = 0.5
    answers = asyncio.gather(*(stage.say() for _ in range(5)))
    await until(lambda: [(i.state, i.progress) for i in stage.residents.ps()] == [("loading", 0.5)])
    assert await answers == ["Hola, ¿qué tal?"] * 5
    assert len(stage.engines.opened) == 1
    assert [info.state for info in stage.residents.ps()] == ["ready"]


async def test_an_adapter_is_loaded_once_and_used_by_key_and_weight(stage: Stage) -> None:
    await asyncio.gather(*(stage.say("red", "blue") for _ in range(3)))
    engine = stage.engines.last
    assert [m.key for m in engine.received if isinstance(m, LoadAdapter)] == ["red", "blue"]
    [first, *_] = [m for m in engine.received if isinstance(m, Generate)]
    assert [(use.key, use.weight) for use in first.adapters] == [("red", 0.5), ("blue", 0.5)]


async def test_an_adapter_that_was_refused_may_be_tried_again(stage: Stage) -> None:
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="does not fit"):
            await stage.say("refused")
    assert len(stage.engines.last.sent(LoadAdapter)) == 2
    assert await stage.say() == "Hola, ¿qué tal?"
    assert stage.refused == [("tiny+refused@1", "/refused.gguf does not fit.")] * 2


async def test_contents_whose_file_is_gone_are_shown_their_new_place(stage: Stage, tmp_path: Path) -> None:
    await stage.say()
    async with stage.residents.lease(stage.base) as engine:
        paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
        for path in paths:
            path.touch()
            await engine.load_adapter("key", path)
        assert len(stage.engines.last.sent(LoadAdapter)) == 1, "the first is as good as the second"
        paths[0].unlink()
        await engine.load_adapter("key", paths[1])
    assert stage.engines.last.adapters == {"key": str(paths[1])}


async def test_death_fails_what_runs_and_the_next_request_starts_another(stage: Stage) -> None:
    await stage.say("red")
    stage.engines.last.gate.clear()
    running = [asyncio.create_task(stage.say("red")) for _ in range(3)]
    await until(lambda: stage.engines.last.running == 3)
    stage.engines.last.die()
    for task in running:
        with pytest.raises(EngineFailed, match="died"):
            await task
    assert await stage.say("red") == "Hola, ¿qué tal?"
    assert len(stage.engines.opened) == 2
    assert len(stage.engines.last.sent(LoadAdapter)) == 1  # the new process knows no adapter


async def test_a_crash_loop_is_refused_until_a_minute_has_passed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.engines.fatal = "no memory"
    for _ in range(3):
        with pytest.raises(EngineFailed, match="no memory"):
            await stage.say()
    with pytest.raises(EngineUnavailable, match="no memory"):
        await stage.say()
    assert len(stage.engines.opened) == 3
    monkeypatch.setattr("llamaleon_server.residents.slot.FAILED_WITHIN_S", 0.0)
    stage.engines.fatal = None
    assert await stage.say() == "Hola, ¿qué tal?"


async def test_a_load_that_takes_too_long_is_given_up(base: Base) -> None:
    stage = Stage(base, engine_start_timeout_s=0.05)
    stage.engines.load_s = 5.0
    with pytest.raises(EngineUnavailable, match="did not load"):
        await stage.say()
    assert stage.engines.last.closed


async def test_an_idle_engine_is_unloaded_but_never_a_busy_one(base: Base) -> None:
    stage = Stage(base, idle_unload_s=0.4)
    await stage.say()
    engine = stage.engines.last
    engine.gate.clear()
    slow = asyncio.create_task(stage.say())
    await asyncio.sleep(1.0)
    assert not engine.closed
    engine.gate.set()
    await slow
    await until(lambda: engine.closed)
    assert stage.residents.ps() == []
    assert await stage.say() == "Hola, ¿qué tal?"
    assert len(stage.engines.opened) == 2
    await stage.residents.close()


async def test_a_lease_keeps_the_engine(base: Base) -> None:
    stage = Stage(base, idle_unload_s=0.02)
    async with stage.residents.lease(base) as engine:
        await asyncio.sleep(0.1)
        assert await engine.tokenize(["ñ"], add_special=True) == [[1, 241]]
        assert await engine.detokenize([241]) == ["ñ".encode()]
        assert (await engine.status()).running == 0
    await stage.residents.close()


async def test_unloading_on_request_ends_what_runs_with_try_again(stage: Stage) -> None:
    await stage.say()
    stage.engines.last.gate.clear()
    running = asyncio.create_task(stage.say())
    await until(lambda: stage.residents.ps()[0].running == 1)
    await stage.residents.unload(stage.base.name)
    with pytest.raises(EngineUnavailable, match="unloaded"):
        await running
    assert stage.engines.last.closed
    with pytest.raises(NotFound):
        await stage.residents.unload(stage.base.name)


async def test_forgotten_adapters_leave_once_no_stream_uses_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaleon_server.residents.residents.TICK_S", 0.02)
    stage.live = {"old", "kept"}
    await stage.say("kept")
    engine = stage.engines.last
    engine.gate.clear()
    old = asyncio.create_task(stage.say("old"))
    await until(lambda: stage.residents.ps()[0].running == 1)
    stage.live = {"kept"}  # `old` was replaced while it streams
    await asyncio.sleep(0.1)
    assert not engine.sent(UnloadAdapter)
    engine.gate.set()
    assert await old == "Hola, ¿qué tal?"
    await until(lambda: engine.sent(UnloadAdapter))
    assert set(engine.adapters) == {"kept"}


async def test_close_ends_a_start_under_way(stage: Stage) -> None:
    stage.engines.load_s = 10.0
    waiting = asyncio.create_task(stage.say())
    await until(lambda: stage.engines.opened)
    await stage.residents.close()
    assert stage.engines.last.closed
    with pytest.raises(EngineUnavailable, match="while it loaded"):
        await waiting


async def test_who_waits_for_a_model_that_is_unloaded_meanwhile_may_try_again(stage: Stage) -> None:
    stage.engines.load_s = 10.0
    waiting = [asyncio.create_task(stage.say()) for _ in range(2)]
    await until(lambda: stage.engines.opened)
    await stage.residents.unload(stage.base.name)
    for task in waiting:  # not cancelled: what runs them would take that for its own end
        with pytest.raises(EngineUnavailable, match="while it loaded"):
            await task
    stage.engines.load_s = 0.0
    assert await stage.say() == "Hola, ¿qué tal?"


async def test_who_is_cancelled_while_a_model_loads_is(stage: Stage) -> None:
    stage.engines.load_s = 0.2
    waiting = [asyncio.create_task(stage.say()) for _ in range(2)]
    await until(lambda: stage.engines.opened)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert await waiting[1] == "Hola, ¿qué tal?"


async def test_what_cannot_be_tidied_does_not_end_the_housekeeping(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaleon_server.residents.residents.TICK_S", 0.02)
    stage = Stage(base, idle_unload_s=None)
    keys: list[set[str]] = []

    def fails() -> set[str]:
        keys.append(stage.live)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(stage, "adapter_keys", fails)
    await stage.say("red")
    await until(lambda: len(keys) > 1)
    stage.residents.keep(base.name, 0)
    await until(lambda: stage.engines.last.closed)
    await stage.residents.close()


async def answering(stage: Stage) -> tuple[FakeEngine, asyncio.Task[str]]:
    """An engine in the middle of an answer, until its gate is set."""
    await stage.say()
    engine = stage.engines.last
    engine.gate.clear()
    running = asyncio.create_task(stage.say())
    await until(lambda: stage.residents.ps()[0].running == 1)
    return engine, running


async def test_an_engine_that_says_what_nobody_understands_is_dead(stage: Stage) -> None:
    engine, running = await answering(stage)
    code: Any = "a_code_of_theirs"
    engine._outgoing.put_nowait(Failed(id=1, code=code, message="?"))
    async with asyncio.timeout(30):
        with pytest.raises(EngineFailed, match="died"):
            await running
    assert await stage.say() == "Hola, ¿qué tal?"


async def test_adapters_that_have_left_leave_nothing_behind(stage: Stage) -> None:
    async with stage.residents.lease(stage.base) as engine:
        for key in ("red", "blue", "refused"):
            with contextlib.suppress(AdapterRefused), engine.holding([key]):
                await engine.load_adapter(key, Path(f"/{key}.gguf"))
            await engine.unload_adapter(key)
        await asyncio.sleep(0)
        assert not engine.adapter_users
        assert not engine.adapter_keys
        assert not engine._paths


async def test_a_name_that_now_means_another_file_gets_another_engine(stage: Stage, tmp_path: Path) -> None:
    await stage.say()
    registry = Registry.open(tmp_path / "home")
    (tmp_path / "moved").mkdir()
    moved = registry.add_base(write_base(tmp_path / "moved" / "tiny.gguf", seed=9), "other")
    registry.close()
    stage.base = msgspec.structs.replace(moved, name=stage.base.name)
    assert list(await asyncio.gather(stage.say(), stage.say())) == ["Hola, ¿qué tal?"] * 2
    [first, second] = stage.engines.opened
    assert first.closed
    assert not second.closed
    [info] = stage.residents.ps()
    assert info.path == str(moved.path)


async def test_who_asks_for_the_new_file_is_not_answered_by_the_old_one(base: Base) -> None:
    stage = Stage(base, idle_unload_s=None, room_wait_s=0.05)
    first, running = await answering(stage)
    stage.base = msgspec.structs.replace(base, path=base.path.with_name("newer.gguf"))
    with pytest.raises(EngineUnavailable, match="was replaced, and the earlier one still answers"):
        await stage.say()
    assert not first.closed
    first.gate.set()
    assert await running == "Hola, ¿qué tal?"
    assert await stage.say() == "Hola, ¿qué tal?"
    assert first.closed
    await stage.residents.close()


async def test_the_new_file_answers_once_the_old_one_has(stage: Stage) -> None:
    first, running = await answering(stage)
    stage.base = msgspec.structs.replace(stage.base, path=stage.base.path.with_name("newer.gguf"))
    later = [asyncio.create_task(stage.say(prompt="y")) for _ in range(3)]
    await asyncio.sleep(0.1)
    first.gate.set()
    assert await asyncio.gather(running, *later) == ["Hola, ¿qué tal?"] * 4
    [_, second] = stage.engines.opened
    assert first.closed
    assert [len(engine.sent(Generate)) for engine in (first, second)] == [2, 3]
