"""vLLM's routes for loading and unloading an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api import Api
from tests.lora import random_lora


def lora(api: Api, path: Path, seed: int = 1) -> Path:
    return random_lora(api.services.registry.base("tiny").path, path, seed=seed)


async def test_load_use_replace_unload(api: Api, tmp_path: Path) -> None:
    body = {"lora_name": "sql", "lora_path": str(lora(api, tmp_path / "a.gguf")), "base_model_name": "tiny"}
    loaded = await api.post("/v1/load_lora_adapter", **body)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert (await api.complete(model="tiny+sql")).json()["model"] == "tiny+sql"

    again = await api.post("/v1/load_lora_adapter", **body)
    assert again.status_code == 400
    assert "'load_inplace' to True" in again.json()["error"]["message"]
    body["lora_path"] = str(lora(api, tmp_path / "b.gguf", seed=2))
    assert (await api.post("/v1/load_lora_adapter", **body, load_inplace=True)).status_code == 200
    assert (await api.complete(model="tiny+sql@2")).status_code == 200

    removed = await api.post("/v1/unload_lora_adapter", lora_name="sql")
    assert (removed.status_code, removed.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert (await api.complete(model="tiny+sql")).status_code == 404
    gone = await api.post("/v1/unload_lora_adapter", lora_name="sql")
    assert gone.status_code == 404
    assert "cannot be found" in gone.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"lora_path": "/x"}, 400, "lora_name"),
        ({"lora_name": "a"}, 400, "lora_path"),
        ({"lora_name": "a", "lora_path": 3}, 400, "lora_path"),
        ({"lora_name": "a", "lora_path": "/x", "load_inplace": "yes"}, 400, "load_inplace"),
        ({"lora_name": "a", "lora_path": "/x", "base_model_name": 1}, 400, "base_model_name"),
        ({"lora_name": "a", "lora_path": "/nowhere/at/all"}, 404, "lora_path"),
        ({"lora_name": "a/b", "lora_path": "/x"}, 400, "lora_name"),
    ],
)
async def test_mistakes_name_the_field(api: Api, body: dict[str, object], status: int, param: str) -> None:
    response = await api.post("/v1/load_lora_adapter", **body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


async def test_a_body_that_is_no_json_object(api: Api) -> None:
    for content in (b"{", b"[]", b"\xff"):
        response = await api.http.post("/v1/unload_lora_adapter", content=content)
        assert response.status_code == 400


async def test_every_version_is_listed_with_its_state(api: Api, tmp_path: Path) -> None:
    body = {"lora_name": "sql", "lora_path": str(lora(api, tmp_path / "a.gguf")), "base_model_name": "tiny"}
    await api.post("/v1/load_lora_adapter", **body)
    [listed] = (await api.http.get("/llamaleon/adapters")).json()["data"]
    assert (listed["id"], listed["state"], listed["rank"], listed["source"]) == (
        "tiny+sql@1",
        "deployed",
        4,
        "gguf",
    )
