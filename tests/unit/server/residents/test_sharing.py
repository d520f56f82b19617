"""Serving and training on one GPU: who gives way, told by faked memory. No GPU is touched here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.unit.server.residents.stage import Stage
from tests.unit.server.residents.test_residents import until

from llamaleon_server.engine.protocol import Gpu
from llamaleon_server.errors import EngineUnavailable
from llamaleon_server.residents import memory, sharing
from llamaleon_server.residents.memory import free_gpu_bytes
from llamaleon_server.residents.sharing import Sharing

TOTAL = 400  # bytes of the faked GPU; a model takes 100
Make = Callable[..., Stage]


class Shared:
    """A machine with one faked GPU, and what its server is told while a training comes."""

    def __init__(self, stage: Stage, policy: str) -> None:
        self.stage = stage
        self.stage.engines.gpus = [Gpu(name="faked", free_bytes=TOTAL, total_bytes=TOTAL)]
        self.sharing = Sharing(stage.residents, policy)
        self.sharing.free_gpu = lambda: TOTAL - 100 * len(self.on_gpu)
        self.said: list[str] = []
        self.wanted = True

    @property
    def on_gpu(self) -> set[str]:
        infos = self.stage.residents.ps()
        return {info.name for info in infos if info.state == "ready" and info.options.gpu_layers != 0}

    @asynccontextmanager
    async def training(self, need: int | None, *, begun: bool = False) -> AsyncIterator[bool]:
        async with self.sharing.place(
            need, wanted=lambda: self.wanted, say=self.said.append, begun=begun
        ) as granted:
            yield granted


@pytest.fixture
def machine(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Shared]:
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    return lambda policy: Shared(make(), policy)


async def finished(shared: Shared, need: int | None) -> bool:
    async with shared.training(need) as granted:
        return granted


# ---------------------------------------------------------------- share


async def test_share_lets_as_many_unused_models_leave_as_it_takes(machine: Callable[[str], Shared]) -> None:
    shared = machine("share")
    for name in "abc":
        await shared.stage.say(name)
    async with shared.training(150) as granted:
        assert granted
        assert shared.on_gpu == {"b", "c"}, "100 were free; a was unused for longest"
    async with shared.training(50):
        assert shared.on_gpu == {"b", "c"}, "what fits beside them fits"
    assert shared.said == []


async def test_share_waits_for_those_in_use(machine: Callable[[str], Shared]) -> None:
    shared = machine("share")
    async with shared.stage.busy("a"):
        waiting = asyncio.create_task(finished(shared, 350))
        await until(lambda: bool(shared.said))
        assert not waiting.done()
    assert await waiting
    assert shared.said == ["Training waits for memory: it needs about 0 MB, and `a` is in use."]
    assert shared.on_gpu == set()


async def test_share_begins_where_nothing_is_left_to_wait_for(machine: Callable[[str], Shared]) -> None:
    """More than the GPU has: the trainer takes smaller batches, or says itself what does not fit."""
    shared = machine("share")
    await shared.stage.say("a")
    async with shared.training(5 * TOTAL) as granted:
        assert granted
        assert shared.on_gpu == set()


async def test_what_is_not_known_is_not_waited_for(machine: Callable[[str], Shared]) -> None:
    shared = machine("share")
    async with shared.stage.busy("a"):
        assert await finished(shared, None)
    assert shared.on_gpu == {"a"}


async def test_a_model_loaded_beside_a_training_counts_it(machine: Callable[[str], Shared]) -> None:
    shared = machine("share")
    for name in "ab":
        await shared.stage.say(name)
    async with shared.training(200):
        await shared.stage.say("c")
        assert shared.on_gpu == {"c"}, "four fifths of 400, less 200, hold one"
    await shared.stage.say("a")
    assert shared.on_gpu == {"a", "c"}


async def test_a_budget_is_that_of_the_models_alone(make: Make) -> None:
    stage = make(memory_budget=250)
    shared = Shared(stage, "share")
    async with shared.training(200):
        for name in "ab":
            await stage.say(name)
        assert stage.loaded == {"a", "b"}


# ---------------------------------------------------------------- wait


async def test_wait_begins_only_when_nobody_is_served(machine: Callable[[str], Shared]) -> None:
    shared = machine("wait")
    await shared.stage.say("b")
    async with shared.stage.busy("a"):
        waiting = asyncio.create_task(finished(shared, 50))
        await until(lambda: bool(shared.said))
        assert not waiting.done(), "although it would fit"
        assert shared.on_gpu == {"a", "b"}, "and nobody was asked to leave"
    assert await waiting
    assert shared.said == ["Training waits until nobody is served: `a` answers."]


async def test_a_job_that_is_paused_or_cancelled_waits_no_longer(machine: Callable[[str], Shared]) -> None:
    shared = machine("wait")
    async with shared.stage.busy("a"):
        waiting = asyncio.create_task(finished(shared, 50))
        await until(lambda: bool(shared.said))
        shared.wanted = False
        assert await waiting is False


# ---------------------------------------------------------------- yield


async def test_yield_gives_the_gpu_to_training_and_serves_from_ram(machine: Callable[[str], Shared]) -> None:
    shared = machine("yield")
    for name in "ab":
        await shared.stage.say(name)
    async with shared.training(50) as granted:
        assert granted
        assert shared.on_gpu == set(), "also where both would fit"
        assert await shared.stage.say("a")
        assert (shared.on_gpu, shared.stage.loaded) == (set(), {"a"}), "it answers meanwhile, on the CPU"
    await shared.stage.say("a")
    assert shared.on_gpu == {"a"}, "and returns to the GPU with its next request"


async def test_yield_waits_for_answers_that_run_but_not_for_ever(
    machine: Callable[[str], Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = machine("yield")
    async with shared.stage.busy("a"):
        waiting = asyncio.create_task(finished(shared, None))
        await until(lambda: bool(shared.said))
        assert shared.on_gpu == {"a"}
    assert await waiting
    assert shared.said == ["Training waits until the GPU is its own: `a` still answers."]

    monkeypatch.setattr(sharing, "GRACE_S", 0.05)
    await shared.stage.say("b")
    engine = shared.stage.engines.last
    engine.gate.clear()
    answer = asyncio.create_task(shared.stage.say("b"))
    await until(lambda: shared.stage.running("b") == 1)
    assert await finished(shared, None)
    with pytest.raises(EngineUnavailable) as ended:
        await answer
    assert ended.value.status == 503, "clients repeat it"


async def test_yield_after_a_restart_keeps_the_gpu_for_the_trainer_that_runs(
    machine: Callable[[str], Shared],
) -> None:
    shared = machine("yield")
    await shared.stage.say("a")
    async with shared.training(None, begun=True) as granted:
        assert granted
        await shared.stage.say("b")
        assert "b" not in shared.on_gpu


async def test_without_a_gpu_yield_is_share(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LOOK_S", 0.01)
    stage = make()
    shared = Sharing(stage.residents, "yield")
    await stage.say("a")
    stage.residents.room.available = lambda: 1000 - 100 * len(stage.loaded)
    async with shared.place(950, wanted=lambda: True, say=print, begun=False) as granted:
        assert granted
        assert stage.loaded == set()
        await stage.say("a")
        [info] = stage.residents.ps()
        assert info.options.gpu_layers is None


# ---------------------------------------------------------------- the reader


@pytest.mark.parametrize(("printed", "free"), [("1024\n512\n", 1 << 30), ("", None), ("[N/A]\n", None)])
def test_nvidia_smi_is_read(
    printed: str, free: int | None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{printed}'\n".replace("\n512", "\\n512"))
    program.chmod(0o755)
    monkeypatch.setattr(memory, "NVIDIA_SMI", (str(program), *memory.NVIDIA_SMI[1:]))
    assert free_gpu_bytes() == free


def test_where_there_is_none_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert free_gpu_bytes() is None
