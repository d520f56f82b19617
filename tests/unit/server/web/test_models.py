"""`/v1/models` and `/llamaleon/...`: what is there, by names of every form."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import openai
import pytest
from tests.api import CHATML, Api, error_of
from tests.lora import random_lora
from tests.unit.server.registry.small import write_base

from llamaleon_server.engine.protocol import Generate, LoadAdapter


@pytest.fixture
async def adapted(api: Api, tmp_path: Path) -> Api:
    """With two versions of the adapter `tono` on `tiny`."""
    for seed in (1, 2):
        lora = random_lora(tmp_path / "tiny.gguf", tmp_path / f"{seed}.gguf", seed=seed)
        body = {"lora_name": "tono", "lora_path": str(lora), "base_model_name": "tiny", "load_inplace": True}
        response = await api.post("/v1/load_lora_adapter", **body)
        assert response.status_code == 200, response.text
    return api


async def test_bases_and_adapters_are_listed_as_openai_models(adapted: Api) -> None:
    listed = (await adapted.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    models = {entry["id"]: entry for entry in listed["data"]}
    assert {"tiny", "bare", "tiny+tono"} <= set(models)
    for entry in listed["data"]:
        openai.types.Model.model_validate(entry, strict=True)
    tono = models["tiny+tono"]
    assert (tono["parent"], tono["version"], tono["versions"]) == ("tiny", 2, [1, 2])
    assert Path(tono["root"]).is_file()
    assert tono["bytes"] == Path(tono["root"]).stat().st_size
    assert models["tiny"]["parent"] is None


@pytest.mark.parametrize("name", ["tiny", "tiny+tono", "tiny+tono@1", "tono", "tiny+tono*0.5"])
async def test_a_model_is_found_by_every_form_of_its_name(adapted: Api, name: str) -> None:
    for written in (name, quote(name, safe="")):
        response = await adapted.http.get(f"/v1/models/{written}")
        assert response.json()["id"] == name
        answer = await adapted.chat(model=name)
        assert answer.json()["model"] == name


async def test_what_cannot_be_served_is_still_shown_and_removed(adapted: Api, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").unlink()
    assert (await adapted.chat(model="tiny+tono")).status_code == 404
    shown = (await adapted.http.get("/llamaleon/models/tiny+tono")).json()
    assert (shown["base"], shown["version"]) == ("tiny", 2)
    assert (await adapted.http.get("/llamaleon/models/tiny")).json()["missing"]
    assert (await adapted.http.delete("/v1/models/tiny+tono")).json()["deleted"]
    assert (await adapted.http.get("/llamaleon/models/tiny+tono")).status_code == 404


async def test_names_with_slashes_and_colons(api: Api, tmp_path: Path) -> None:
    path = write_base(tmp_path / "other.gguf", seed=5, template=CHATML)
    name = "org/model:0.5b"
    added = await api.post("/llamaleon/bases", path=str(path), name=name)
    assert added.json()["name"] == name
    for written in (name, quote(name, safe="")):
        assert (await api.http.get(f"/v1/models/{written}")).json()["id"] == name
        assert (await api.http.get(f"/llamaleon/models/{written}")).json()["chat_template"] == "model"
    assert (await api.chat(model=name)).status_code == 200
    removed = await api.http.delete(f"/llamaleon/bases/{quote(name, safe='')}")
    assert removed.json()["deleted"] is True
    assert api.engines.last.closed  # its memory was freed
    assert (await api.http.get(f"/v1/models/{name}")).status_code == 404


async def test_an_adapter_reaches_the_engine_by_content(adapted: Api) -> None:
    await adapted.chat(model="tiny+tono@1*0.25")
    engine = adapted.engines.last
    [loaded] = [message for message in engine.received if isinstance(message, LoadAdapter)]
    [asked] = [message for message in engine.received if isinstance(message, Generate)]
    assert [(use.key, use.weight) for use in asked.adapters] == [(loaded.key, 0.25)]
    await adapted.chat(model="tiny", lora=[{"id": "tono", "scale": 0.5}])
    [_, second] = [message for message in engine.received if isinstance(message, Generate)]
    assert second.adapters[0].weight == 0.5
    assert second.adapters[0].key != loaded.key  # the latest version


async def test_deleting_an_adapter(adapted: Api) -> None:
    response = await adapted.http.delete("/v1/models/tiny+tono")
    assert response.json() == {"id": "tiny+tono", "object": "model", "deleted": True}
    openai.types.ModelDeleted.model_validate(response.json(), strict=True)
    assert (await adapted.http.get("/v1/models/tiny+tono")).status_code == 404
    assert (await adapted.http.delete("/v1/models/tiny+tono")).status_code == 404


async def test_a_base_is_not_deleted_by_openais_route(api: Api) -> None:
    response = await api.http.delete("/v1/models/tiny")
    assert response.status_code == 400
    assert "/llamaleon/bases/tiny" in error_of(response)["message"]


async def test_show_tells_of_versions_and_training(adapted: Api) -> None:
    shown = (await adapted.http.get("/llamaleon/models/tiny+tono")).json()
    assert (shown["base"], shown["version"]) == ("tiny", 2)
    assert [version["version"] for version in shown["versions"]] == [1, 2]
    assert shown["manifest"]["rank"] == 4
    base = (await adapted.http.get("/llamaleon/models/bare")).json()
    assert (base["kind"], base["chat_template"], base["architecture"]) == ("base", "fallback", "llama")


async def test_ps_and_unload(api: Api) -> None:
    assert (await api.http.get("/llamaleon/ps")).json()["data"] == []
    await api.chat()
    [resident] = (await api.http.get("/llamaleon/ps")).json()["data"]
    assert (resident["name"], resident["state"], resident["running"]) == ("tiny", "ready", 0)
    assert (await api.http.get("/health")).json() == {"status": "ok", "loaded": ["tiny"]}
    assert (await api.post("/llamaleon/unload", model="tiny")).json()["unloaded"] is True
    assert (await api.http.get("/llamaleon/ps")).json()["data"] == []
    response = await api.post("/llamaleon/unload", model="tiny")
    assert response.status_code == 404
    assert "not in memory" in error_of(response)["message"]


async def test_health_answers_while_a_model_loads(api: Api) -> None:
    api.engines.load_s = 0.3
    slow = asyncio.create_task(api.chat())
    await asyncio.sleep(0.05)
    assert (await api.http.get("/health")).json()["loaded"] == []
    assert not slow.done()
    assert (await slow).status_code == 200


@pytest.mark.parametrize("body", [{}, {"path": ""}, {"path": 3}, {"path": "/nowhere.gguf"}])
async def test_a_bad_base_is_refused_with_the_field(api: Api, body: dict[str, object]) -> None:
    response = await api.post("/llamaleon/bases", **body)
    assert response.status_code == 400
    assert error_of(response)["param"] == "path"
