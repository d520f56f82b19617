"""Pins reach the engine when it starts and when they change; registered adapters are tried at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.server.residents.test_residents import Stage, base, stage, until, version

from llamaleon_server.engine.protocol import LoadAdapter
from llamaleon_server.errors import AdapterRefused
from llamaleon_server.testing import BANK_RANKS, RANK

__all__ = ["base", "stage"]  # fixtures


def sent(stage: Stage) -> list[tuple[str, bool | None]]:
    return [(m.key, m.pinned) for m in stage.engines.last.received if isinstance(m, LoadAdapter)]


async def test_pinned_adapters_are_loaded_as_soon_as_their_engine_is_ready(stage: Stage) -> None:
    stage.pins = [version(stage.base, "red"), version(stage.base, "blue")]
    await stage.say()
    await until(lambda: stage.engines.last.pinned == {"red", "blue"})
    [info] = stage.residents.ps()
    assert set(info.pinned) == {"red", "blue"}
    stage.engines.last.die()
    await until(lambda: stage.residents.ps() == [])
    await stage.say()
    await until(lambda: stage.engines.last.pinned == {"red", "blue"})
    assert len(stage.engines.opened) == 2


async def test_pins_follow_the_records(stage: Stage) -> None:
    assert await stage.residents.settle_pins(stage.base) == {}
    assert not stage.engines.opened, "a pin starts no engine"
    await stage.say("red")
    stage.pins = [version(stage.base, "red")]
    assert await stage.residents.settle_pins(stage.base) == {}
    assert sent(stage) == [("red", None), ("red", True)]
    assert await stage.residents.settle_pins(stage.base) == {}
    assert len(sent(stage)) == 2, "nothing had changed"
    stage.pins = [version(stage.base, "blue")]
    await stage.residents.settle_pins(stage.base)
    assert stage.engines.last.pinned == {"blue"}


async def test_a_pin_for_which_there_is_no_room_is_told_apart(stage: Stage) -> None:
    names = [f"adapter-{number}" for number in range(BANK_RANKS // RANK + 1)]
    stage.pins = [version(stage.base, name) for name in names]
    await stage.say()
    await until(lambda: len(stage.engines.last.pinned) == len(names) - 1)
    failures = await stage.residents.settle_pins(stage.base)
    assert list(failures) == names[-1:]
    assert isinstance(failures[names[-1]], AdapterRefused)
    assert stage.refused == [], "the adapter itself is good"
    assert await stage.say(names[-1]) == "Hola, ¿qué tal?"


async def test_what_is_registered_is_tried_only_where_an_engine_runs(stage: Stage) -> None:
    await stage.residents.offer(stage.base, version(stage.base, "red"))
    assert not stage.engines.opened
    await stage.say()
    await stage.residents.offer(stage.base, version(stage.base, "red"))
    assert stage.engines.last.adapters == {"red": "/red.gguf"}
    with pytest.raises(AdapterRefused, match="does not fit"):
        await stage.residents.offer(stage.base, version(stage.base, "refused"))
    assert stage.refused == [("tiny+refused@1", "/refused.gguf does not fit.")]
    other = msgspec.structs.replace(stage.base, path=Path("/another/file.gguf"))
    await stage.residents.offer(other, version(other, "blue"))
    assert "blue" not in stage.engines.last.adapters, "that engine runs another file of the name"


async def test_an_engine_that_dies_of_an_offer_is_the_next_requests_business(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.say()
    engine = stage.engines.last
    offered = stage.residents.offer(stage.base, version(stage.base, "red"))
    monkeypatch.setattr(engine, "send", lambda message: engine.die())
    await offered
    assert stage.refused == []
    assert await stage.say("red") == "Hola, ¿qué tal?"


async def test_a_forgotten_pin_leaves_with_its_adapter(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaleon_server.residents.residents.TICK_S", 0.02)
    stage.live = {"red"}
    stage.pins = [version(stage.base, "red")]
    await stage.say()
    await until(lambda: stage.engines.last.pinned == {"red"})
    stage.live, stage.pins = set(), []
    await until(lambda: not stage.engines.last.adapters)
    [info] = stage.residents.ps()
    assert (info.adapters, info.pinned) == ([], [])
