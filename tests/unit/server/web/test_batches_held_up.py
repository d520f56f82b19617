"""Batches that meet a full disk, or a model that leaves: they wait, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api import Api
from tests.unit.server.web.test_batches import begin, ended, entries, half_done, line

from llamaleon_server.batches.results import Results
from llamaleon_server.engine.protocol import Generate
from llamaleon_server.errors import StorageFull


@pytest.mark.parametrize("where", ["upload", "update", "add"])
async def test_a_full_disk_is_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What was written down is neither lost nor done again."""
    monkeypatch.setattr("llamaleon_server.batches.run.ROOM_WAIT_S", 0.01)
    registry = api.services.registry
    batch = await half_done(api)
    store: Any = {"upload": registry.files, "update": registry.batches, "add": Results}[where]
    works, refused = getattr(store, where), list[object]()

    def full(*args: Any, **more: Any) -> Any:
        if len(refused) < 3:
            refused.append(args)
            raise StorageFull("No space left.")
        return works(*args, **more)

    monkeypatch.setattr(store, where, full)
    done = await ended(api, batch.id)
    assert len(refused) == 3
    assert (done.status, done.errors) == ("completed", None)
    assert len(await entries(api, done.output_file_id)) == 40
    if where != "add":
        assert len(api.engines.last.sent(Generate)) == 40


async def test_what_a_full_disk_does_not_let_be_cancelled_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaleon_server.batches.run.ROOM_WAIT_S", 0.01)
    batch = await half_done(api)
    api.engines.last.gate.clear()

    def full(*args: Any, **more: Any) -> Any:
        raise StorageFull("No space left.")

    with monkeypatch.context() as patch:
        patch.setattr(api.services.registry.batches, "update", full)
        refused = await api.http.post(f"/v1/batches/{batch.id}/cancel")
    assert refused.status_code == 507
    api.engines.last.gate.set()
    done = await ended(api, batch.id)
    assert done.status == "completed"
    assert len(await entries(api, done.output_file_id)) == 40


async def test_what_waits_for_a_model_that_is_unloaded_is_asked_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaleon_server.batches.run.FIRST_WAIT_S", 0.01)
    api.engines.load_s = 30.0
    batch = await begin(api, [line(name) for name in "abc"])
    async with asyncio.timeout(30):
        while not api.engines.opened:
            await asyncio.sleep(0.002)
    api.engines.load_s = 0.0
    await api.services.residents.unload("tiny")
    done = await ended(api, batch.id)
    assert done.status == "completed"
    assert [entry["custom_id"] for entry in await entries(api, done.output_file_id)] == list("abc")
