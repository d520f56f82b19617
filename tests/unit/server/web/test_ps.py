"""`ps`: what each engine says of itself, by the names that users know; pins and late refusals over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.api import Api, error_of, running_api
from tests.lora import random_lora

from llamaleon_server.testing import FakeEngines


async def add(api: Api, tmp_path: Path, name: str, seed: int, **more: Any) -> Any:
    """Registers random weights under `tiny`. Returns the response."""
    base = api.services.registry.base("tiny").path
    path = random_lora(base, tmp_path / f"{name}-{seed}.gguf", seed=seed)
    body = {"lora_name": name, "lora_path": str(path), "base_model_name": "tiny", **more}
    return await api.post("/v1/load_lora_adapter", **body)


async def ps(api: Api) -> Any:
    [model] = (await api.http.get("/llamaleon/ps")).json()["data"]
    return model


def key_of(api: Api, name: str) -> str:
    [(version, _)] = api.services.registry.resolve(name).adapters
    return version.key


async def test_adapters_are_called_by_their_names(api: Api, tmp_path: Path) -> None:
    await add(api, tmp_path, "sql", 1)
    await add(api, tmp_path, "poet", 2)
    assert (await api.http.get("/llamaleon/ps")).json()["data"] == []
    await api.complete(model="tiny+sql")
    await api.complete(model="tiny+poet")
    await api.post("/llamaleon/adapters/poet/pin")
    model = await ps(api)
    assert (model["name"], model["state"], model["running"], model["waiting"]) == ("tiny", "ready", 0, 0)
    assert model["adapters"] == [
        {"name": "tiny+sql@1", "key": key_of(api, "sql"), "pinned": False},
        {"name": "tiny+poet@1", "key": key_of(api, "poet"), "pinned": True},
    ]
    [first, second] = model["bank"]["hot"]
    assert (first["name"], first["first_rank"], first["rank"], first["pinned"]) == ("tiny+sql@1", 0, 4, False)
    assert (second["name"], second["pinned"]) == ("tiny+poet@1", True)
    assert (model["bank"]["used_ranks"], model["bank"]["total_ranks"]) == (8, 32)
    assert model["prefix"]["hit_rate"] == 0.0
    assert model["step"]["tokens_out"] == 30
    await api.http.delete("/v1/models/tiny%2Bsql")
    gone = (await ps(api))["bank"]["hot"][0]
    assert gone["name"] is None
    assert len(gone["key"]) == 64


async def test_an_engine_that_is_busy_holds_up_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.chat()
    monkeypatch.setattr("llamaleon_server.residents.residents.STATUS_TIMEOUT_S", 0.05)
    api.engines.last.mute = True
    async with asyncio.timeout(30):
        model = await ps(api)
    assert (model["state"], model["bank"], model["step"], model["prefix"]) == ("ready", None, None, None)


async def test_a_model_that_loads_is_listed_with_its_progress(api: Api) -> None:
    api.engines.load_s = 0.1
    answer = asyncio.create_task(api.chat())
    async with asyncio.timeout(30):
        while not (found := (await api.http.get("/llamaleon/ps")).json()["data"]):
            await asyncio.sleep(0.005)
    assert (found[0]["state"], found[0]["bank"]) == ("loading", None)
    await answer


async def test_pins_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    from tests.unit.server.registry.small import write_base

    tiny = write_base(tmp_path / "tiny.gguf")
    async with running_api(tmp_path / "home", tiny) as api:
        await add(api, tmp_path, "sql", 1)
        pinned = await api.post("/llamaleon/adapters/tiny+sql/pin")
        assert (pinned.status_code, pinned.json()["id"], pinned.json()["pinned"]) == (200, "tiny+sql@1", True)
    async with running_api(tmp_path / "home", tiny, engines=FakeEngines()) as api:
        await api.complete()
        async with asyncio.timeout(30):
            while not api.engines.last.pinned:
                await asyncio.sleep(0.005)
        await add(api, tmp_path, "sql", 2, load_inplace=True)
        assert api.engines.last.pinned == {key_of(api, "sql@2")}, "the pin follows the name"
        shown = (await api.http.get("/llamaleon/models/tiny+sql")).json()["versions"]
        assert [version["pinned"] for version in shown] == [False, True]
        listed = (await api.http.get("/llamaleon/adapters")).json()["data"]
        assert [version["pinned"] for version in listed] == [False, True]
        removed = await api.post("/llamaleon/adapters/sql/unpin")
        assert removed.json() == {"id": "sql", "object": "adapter", "pinned": False}
        assert api.engines.last.pinned == set()


async def test_a_pin_that_the_engine_refuses_is_not_remembered(api: Api, tmp_path: Path) -> None:
    await api.complete()
    for seed in range(9):
        await add(api, tmp_path, f"a{seed}", seed)
        answer = await api.post(f"/llamaleon/adapters/a{seed}/pin")
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "adapter_refused"
    assert len(api.services.registry.pinned()) == 8
    assert (await api.complete(model="tiny+a8")).status_code == 200


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("tiny", 400, "is a base model"),
        ("tiny+sql*0.5", 400, "is a blend"),
        ("nothing", 404, "does not exist"),
        ("tiny+sql@9", 404, "does not exist"),
    ],
)
async def test_what_cannot_be_pinned(api: Api, tmp_path: Path, name: str, status: int, words: str) -> None:
    await add(api, tmp_path, "sql", 1)
    answer = await api.post(f"/llamaleon/adapters/{name}/pin")
    assert (answer.status_code, words in error_of(answer)["message"]) == (status, True)


async def test_unpinning_what_is_not_pinned(api: Api, tmp_path: Path) -> None:
    await add(api, tmp_path, "sql", 1)
    answer = await api.post("/llamaleon/adapters/tiny+sql/unpin")
    assert (answer.status_code, error_of(answer)["message"]) == (404, "`tiny+sql` is not pinned.")


async def test_what_only_the_engine_can_refuse_is_refused_when_it_is_registered(
    api: Api, tmp_path: Path
) -> None:
    assert (await add(api, tmp_path, "sql", 1)).status_code == 200
    assert not api.engines.opened, "registering starts no engine"
    await api.complete()
    assert key_of(api, "sql") not in api.engines.last.adapters
    await add(api, tmp_path, "other", 5)
    assert key_of(api, "other") in api.engines.last.adapters
    content = random_lora(api.services.registry.base("tiny").path, tmp_path / "bad.gguf", seed=2)
    api.engines.refuses.add(hashlib.sha256(content.read_bytes()).hexdigest())
    refused = await add(api, tmp_path, "sql", 2, load_inplace=True)
    assert refused.status_code == 400
    assert error_of(refused)["code"] == "adapter_refused"
    versions = {v["id"]: v for v in (await api.http.get("/llamaleon/adapters")).json()["data"]}
    assert versions["tiny+sql@2"]["state"] == "failed"
    assert "does not fit" in versions["tiny+sql@2"]["reason"]
    assert api.services.registry.resolve("tiny+sql").adapters[0][0].version == 1


async def test_a_refusal_at_the_first_request_is_remembered(api: Api, tmp_path: Path) -> None:
    await add(api, tmp_path, "sql", 1)
    api.engines.refuses.add(key_of(api, "sql"))
    for _ in range(2):
        answer = await api.complete(model="tiny+sql")
        assert answer.status_code == 400
        assert "does not fit" in error_of(answer)["message"]
    from llamaleon_server.engine.protocol import LoadAdapter

    assert len(api.engines.last.sent(LoadAdapter)) == 1, "the second time the registry knew"
    [version] = (await api.http.get("/llamaleon/adapters")).json()["data"]
    assert version["state"] == "failed"
