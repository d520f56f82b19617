"""Several models in memory: how long each stays, and who leaves for another. Over fake engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.server.residents.stage import Stage
from tests.unit.server.residents.test_residents import until

from llamaleon_server.engine.protocol import Gpu
from llamaleon_server.errors import EngineUnavailable
from llamaleon_server.settings import EngineSettings

# ---------------------------------------------------------------- room


async def test_the_one_unused_for_longest_leaves_first(make: Callable[..., Stage]) -> None:
    stage = make(memory_budget=250)
    await stage.say("a")
    await stage.say("b")
    await stage.say("a")
    assert stage.loaded == {"a", "b"}
    await stage.say("c")
    assert stage.loaded == {"a", "c"}, "b was unused for longest"
    [info] = [info for info in stage.residents.ps() if info.name == "c"]
    assert info.needed_bytes == 100


async def test_a_count_of_models(make: Callable[..., Stage]) -> None:
    stage = make(max_models=1)
    for name in "aba":
        await stage.say(name)
        assert stage.loaded == {name}


async def test_one_in_use_never_leaves_and_the_other_waits(make: Callable[..., Stage]) -> None:
    stage = make(memory_budget=150)
    async with stage.busy("a") as engine:
        waiting = asyncio.create_task(stage.say("b"))
        await asyncio.sleep(0.1)
        assert not engine.closed
        assert {info.name: info.state for info in stage.residents.ps()} == {"a": "ready", "b": "loading"}
    assert await waiting == "Hola, ¿qué tal?"
    assert stage.loaded == {"b"}


async def test_who_waits_too_long_is_told_what_is_in_the_way(make: Callable[..., Stage]) -> None:
    stage = make(memory_budget=150, room_wait_s=0.05)
    async with stage.busy("a"):
        for _ in range(5):
            with pytest.raises(
                EngineUnavailable, match="no room for the model `b`: it needs about 0 MB"
            ) as told:
                await stage.say("b")
            assert "in use" in told.value.message
            assert "In memory: `a`" in told.value.message
            assert told.value.status == 503
    assert await stage.say("b") == "Hola, ¿qué tal?", "waiting in vain is no crash loop"


async def test_what_can_never_fit_is_refused_at_once(make: Callable[..., Stage]) -> None:
    stage = make(memory_budget=90)
    async with asyncio.timeout(30):
        with pytest.raises(EngineUnavailable, match="which is less"):
            await stage.say("a")
    assert stage.engines.opened == []


async def test_a_budget_of_its_own_making(make: Callable[..., Stage]) -> None:
    """A share of what is free while no model is loaded; one model alone may always try."""
    stage = make()
    free = 240
    stage.residents.room.available = lambda: free
    await stage.say("a")
    await stage.say("b")
    assert stage.loaded == {"b"}, "four fifths of 240 do not hold two"
    await stage.residents.unload("b")
    free = 50
    await stage.say("a")
    assert stage.loaded == {"a"}


async def test_two_that_come_at_once_do_not_count_on_the_same_room(make: Callable[..., Stage]) -> None:
    stage = make(memory_budget=150)
    stage.engines.load_s = 0.05
    assert set(await asyncio.gather(stage.say("a"), stage.say("b"))) == {"Hola, ¿qué tal?"}
    assert len(stage.loaded) == 1
    assert stage.engines.opened[0].closed


async def test_gpus_are_a_pool_of_their_own(make: Callable[..., Stage]) -> None:
    stage = make()
    stage.residents.room.available = lambda: 1000
    stage.engines.gpus = [Gpu(name="faked", free_bytes=150, total_bytes=200)]
    await stage.say("a")
    await stage.say("b")
    assert stage.loaded == {"b"}, "four fifths of 200 do not hold two"
    stage.wanted["c"] = EngineSettings(gpu_layers=0)
    await stage.say("c")
    assert stage.loaded == {"b", "c"}, "one that stays off the GPU is none of its business"
    async with stage.busy("b"):
        await stage.say("a")
        assert {"a", "b"} <= stage.loaded, "beside one in use, some of its layers may go to the GPU"


# ---------------------------------------------------------------- how long


async def test_a_request_says_how_long_its_model_stays(make: Callable[..., Stage]) -> None:
    stage = make(idle_unload_s=60.0)
    await stage.say("a")
    await stage.say("b")
    stage.residents.keep("a", 0.05)
    stage.residents.keep("b", None)
    infos = {info.name: info for info in stage.residents.ps()}
    assert (infos["a"].keep_alive_s, infos["b"].keep_alive_s, infos["b"].expires) == (0.05, None, None)
    await until(lambda: stage.loaded == {"b"})
    await stage.say("a")
    [info] = [info for info in stage.residents.ps() if info.name == "a"]
    assert info.keep_alive_s == 60.0, "what was said held until it left"


async def test_what_a_request_said_ends_when_its_model_makes_room(make: Callable[..., Stage]) -> None:
    stage = make(max_models=1, idle_unload_s=60.0)
    await stage.say("a")
    stage.residents.keep("a", None)
    await stage.say("b")
    await stage.say("a")
    [info] = stage.residents.ps()
    assert (info.name, info.keep_alive_s) == ("a", 60.0)


async def test_zero_means_as_soon_as_nobody_uses_it(
    make: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaleon_server.residents.residents.TICK_S", 1000.0)
    stage = make()
    async with stage.busy("a") as engine:
        stage.residents.keep("a", 0)
        await asyncio.sleep(0.4)
        assert not engine.closed
    await until(lambda: engine.closed)


async def test_zero_may_be_said_before_the_request(make: Callable[..., Stage]) -> None:
    stage = make()
    await stage.say("a")
    stage.residents.keep("a", 0)
    await stage.say("a")
    assert len(stage.engines.opened) == 1
    await until(lambda: stage.loaded == set())


async def test_the_presets_say_how_long(make: Callable[..., Stage]) -> None:
    stage = make(idle_unload_s=60.0)
    stage.keeps = {"a": 0.05, "b": None}
    for name in "abc":
        await stage.say(name)
    assert {info.name: info.keep_alive_s for info in stage.residents.ps()} == {
        "a": 0.05,
        "b": None,
        "c": 60.0,
    }
    await until(lambda: stage.loaded == {"b", "c"})


# ---------------------------------------------------------------- options


async def test_other_options_load_it_again_once_nobody_uses_it(make: Callable[..., Stage]) -> None:
    stage = make()
    async with stage.busy("a") as engine:
        stage.wanted["a"] = EngineSettings(kv_type="q8_0")
        second = asyncio.create_task(stage.say("a"))
        await until(lambda: stage.running("a") == 2)
    assert await second
    await stage.say("a")
    assert engine.closed
    [info] = stage.residents.ps()
    assert info.options.kv_type == "q8_0"


async def test_a_wish_for_context_that_is_met_already_changes_nothing(make: Callable[..., Stage]) -> None:
    stage = make()
    await stage.say("a")
    stage.wanted["a"] = EngineSettings(least_context_tokens=stage.engines.context_tokens)
    await stage.say("a")
    assert len(stage.engines.opened) == 1
    stage.wanted["a"] = EngineSettings(least_context_tokens=stage.engines.context_tokens + 1)
    await stage.say("a")
    assert len(stage.engines.opened) == 2
