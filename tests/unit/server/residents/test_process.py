"""Real child processes behind the channel: they die in every way, and none outlives us."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from tests.data import shared

from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.protocol import GenerateRequest
from llamaleon_server.errors import EngineFailed
from llamaleon_server.registry.records import Base, Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.channel import ProcessChannel
from llamaleon_server.residents.engine import Engine
from llamaleon_server.residents.residents import Residents
from llamaleon_server.settings import EngineSettings, Settings

OPTIONS = EngineOptions(model_path="/nowhere.gguf")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def start(code: str) -> Engine:
    channel = await ProcessChannel.spawn("toy", OPTIONS, python(code))
    return await Engine.start("toy", channel, 10.0, lambda fraction: None)


async def test_the_last_lines_of_an_engine_that_dies_loading_are_the_message() -> None:
    with pytest.raises(EngineFailed, match=r"exit status 3.*no such tensor: ñ"):
        await start("import sys; print('no such tensor: ñ', file=sys.stderr); sys.exit(3)")


async def test_garbage_instead_of_a_message_is_a_death() -> None:
    with pytest.raises(EngineFailed, match="died while loading"):
        await start(
            "import sys, time; sys.stdout.write('\\x02\\0\\0\\0??'); sys.stdout.flush(); time.sleep(60)"
        )


async def test_no_such_command_is_said_plainly() -> None:
    with pytest.raises(EngineFailed, match="cannot be started"):
        await ProcessChannel.spawn("toy", OPTIONS, ("/no/such/python",))


async def test_an_engine_that_ignores_everything_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaleon_server.residents.channel.STOP_S", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
    channel = await ProcessChannel.spawn("toy", OPTIONS, python(code))
    assert channel.pid is not None
    await asyncio.sleep(0.3)  # until it ignores the signal
    await channel.close()
    assert not psutil.pid_exists(channel.pid)
    assert "signal" in channel.last_words()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    registry = Registry.open(tmp_path / "home")
    added = registry.add_base(shared("stories260K/stories260K-f32.gguf"))
    registry.close()
    return added


async def test_kill_9_of_the_real_engine_mid_stream_and_the_next_request_works(base: Base) -> None:
    residents = Residents(Settings())
    target = Target(requested="x", base=base)
    stream = residents.generate(target, GenerateRequest(prompt="Once", max_tokens=400, ignore_eos=True))
    assert (await anext(stream)).text
    [info] = residents.ps()
    assert info.pid is not None
    os.kill(info.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed, match="died"):
        async for _ in stream:
            pass
    again = residents.generate(target, GenerateRequest(prompt="Once upon a", max_tokens=5))
    assert "".join([delta.text async for delta in again])
    [info] = residents.ps()
    await residents.close()
    assert info.pid is not None
    assert not psutil.pid_exists(info.pid)


async def test_two_real_models_stay_within_their_budget(base: Base) -> None:
    """What they are estimated to need is near what they take; the engine sizes its cache by the budget."""
    other = msgspec.structs.replace(base, name="other")
    budget = 500 << 20
    residents = Residents(Settings(memory_budget=budget, engine=EngineSettings(parallel_sequences=4)))
    for one in (base, other, base):
        target = Target(requested="x", base=one)
        stream = residents.generate(target, GenerateRequest(prompt="Once", max_tokens=3))
        assert "".join([delta.text async for delta in stream])
    infos = residents.ps()
    await residents.close()
    taken = [info.resident_bytes or 0 for info in infos]
    assert sum(taken) < budget
    for info in infos:
        assert 0.6 < info.needed_bytes / (info.resident_bytes or 1) < 1.6
        assert info.ready is not None
        assert info.ready.kv_bytes < budget / 4


async def test_a_budget_for_one_holds_one(base: Base) -> None:
    other = msgspec.structs.replace(base, name="other")
    residents = Residents(Settings(memory_budget=300 << 20))
    for one in (base, other):
        target = Target(requested="x", base=one)
        stream = residents.generate(target, GenerateRequest(prompt="Once", max_tokens=3))
        assert "".join([delta.text async for delta in stream])
    assert [info.name for info in residents.ps()] == ["other"]
    await residents.close()
