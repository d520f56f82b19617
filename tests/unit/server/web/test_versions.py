"""Promotion and rollback over HTTP: names move, running requests stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.api import Api
from tests.lora import random_lora

from llamaleon_server.engine import protocol


async def add_versions(api: Api, folder: Path, count: int) -> None:
    base = api.services.registry.base("tiny").path
    for seed in range(1, count + 1):
        path = random_lora(base, folder / f"{seed}.gguf", seed=seed)
        body = {"lora_name": "sql", "lora_path": str(path), "base_model_name": "tiny", "load_inplace": True}
        assert (await api.post("/v1/load_lora_adapter", **body)).status_code == 200


async def test_promote_roll_back_and_look(api: Api, tmp_path: Path) -> None:
    await add_versions(api, tmp_path, 3)
    promoted = (await api.post("/llamaleon/adapters/tiny+sql@1/promote")).json()
    assert (promoted["id"], promoted["serving"], promoted["state"]) == ("tiny+sql@1", True, "deployed")
    listed = (await api.http.get("/llamaleon/adapters/sql/versions")).json()
    assert listed["id"] == "tiny+sql"
    assert [(one["version"], one["serving"]) for one in listed["data"]] == [(1, True), (2, False), (3, False)]
    assert [one["version"] for one in listed["deployments"]] == [1, 2, 3, 1]
    assert (await api.http.get("/v1/models/tiny%2Bsql")).json()["version"] == 1

    back = (await api.post("/llamaleon/adapters/tiny+sql/rollback")).json()
    assert (back["id"], back["rolled_back_from"]) == ("tiny+sql@3", 1)
    assert (await api.post("/llamaleon/adapters/tiny+sql/rollback")).json()["id"] == "tiny+sql@2"
    assert (await api.complete(model="tiny+sql@3")).status_code == 200


async def test_mistakes(api: Api, tmp_path: Path) -> None:
    await add_versions(api, tmp_path, 1)
    unnumbered = await api.post("/llamaleon/adapters/tiny+sql/promote")
    assert unnumbered.status_code == 400
    assert "`tiny+sql@1`" in unnumbered.json()["error"]["message"]
    for path, status in (
        ("tiny+sql@7/promote", 404),
        ("nothing/rollback", 404),
        ("tiny/rollback", 400),
        ("tiny+sql/rollback", 409),
    ):
        assert (await api.post(f"/llamaleon/adapters/{path}")).status_code == status, path


async def test_a_running_request_ends_with_the_version_that_it_began_with(api: Api, tmp_path: Path) -> None:
    await add_versions(api, tmp_path, 2)
    assert (await api.complete(model="tiny+sql")).status_code == 200
    fake = api.engines.last
    fake.gate.clear()
    running = asyncio.create_task(api.complete(model="tiny+sql"))
    while not fake.running:
        await asyncio.sleep(0.01)
    await api.post("/llamaleon/adapters/tiny+sql/rollback")
    fake.gate.set()
    assert (await running).status_code == 200
    await api.complete(model="tiny+sql")
    keys = [one.adapters[0].key for one in fake.received if isinstance(one, protocol.Generate)]
    of = {number: api.services.registry.resolve(f"tiny+sql@{number}").adapters[0][0].key for number in (1, 2)}
    assert keys == [of[2], of[2], of[1]]
