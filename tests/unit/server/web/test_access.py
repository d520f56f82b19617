"""Keys and scopes: who may do what, in the words of each protocol, also inside another application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.api import CHATML, Api, error_of, running_api
from tests.unit.server.registry.small import write_base

from llamaleon_server.app import ROUTES
from llamaleon_server.registry.keys import KeyScope
from llamaleon_server.web.scopes import ORDER, ROUTE_SCOPES, names_of, scope_of

TRAINING = {"purpose": "fine-tune"}, {"file": ("a.jsonl", b'{"prompt": "a", "completion": "b"}')}
BATCH = {"purpose": "batch"}, {"file": ("a.jsonl", b"{}")}


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "home", write_base(tmp_path / "tiny.gguf", template=CHATML)) as running:
        yield running


def key_of(api: Api, scope: KeyScope) -> dict[str, str]:
    _, key = api.services.registry.keys.create(scope, scope)
    return {"Authorization": f"Bearer {key}"}


def test_every_route_has_a_scope_and_every_scope_a_route() -> None:
    named = {name for route in ROUTES for name in names_of(route)}
    assert named - set(ROUTE_SCOPES) == set(), "say in web/scopes.py who may use these"
    assert set(ROUTE_SCOPES) - named == set(), "no such route any more"


async def test_without_keys_loopback_is_open(tiny: Api) -> None:
    assert (await tiny.chat()).status_code == 200
    given = {"Authorization": "Bearer unused"}  # openai's client must send something
    assert (await tiny.http.get("/v1/models", headers=given)).status_code == 200


async def test_with_a_key_every_route_but_the_open_ones_wants_one(tiny: Api) -> None:
    key_of(tiny, "use")
    for route in ROUTES:
        for name in names_of(route):
            method, path = name.split(" ")
            response = await tiny.http.request(method, path)
            if ROUTE_SCOPES[name] == "open":
                assert response.status_code < 400, name
            else:
                assert response.status_code == 401, name
                assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scope", ["use", "train", "admin"])
async def test_each_scope_opens_its_routes_and_those_below(tiny: Api, scope: KeyScope) -> None:
    headers = key_of(tiny, scope)
    for route in ROUTES:
        needed = scope_of(route)
        for name in names_of(route):
            method, path = name.split(" ")
            response = await tiny.http.request(method, path, headers=headers)
            allowed = ORDER.index(scope) >= ORDER.index(needed)
            said = method == "HEAD" or f"scope `{needed}`" in response.text
            missing = response.status_code == 403 and said
            # `use` may ask for files, but not for those that are training data.
            assert missing is not allowed or "files" in name.lower(), (name, response.text)


async def test_openais_error_for_a_wrong_key_and_for_a_weak_one(tiny: Api) -> None:
    weak = key_of(tiny, "use")
    wrong = await tiny.http.get("/v1/models", headers={"Authorization": "Bearer sk-123"})
    assert wrong.status_code == 401
    assert error_of(wrong)["code"] == "invalid_api_key"
    refused = await tiny.http.post("/v1/load_lora_adapter", headers=weak, json={})
    assert refused.status_code == 403
    assert error_of(refused)["code"] == "insufficient_scope"
    assert "`admin`" in error_of(refused)["message"]


async def test_anthropics_header_counts_and_its_errors_are_anthropics(tiny: Api) -> None:
    key = key_of(tiny, "use")["Authorization"].removeprefix("Bearer ")
    assert (await tiny.http.get("/v1/models", headers={"x-api-key": key})).status_code == 200
    listing = await tiny.http.get(
        "/v1/models", headers={"anthropic-version": "2023-06-01", "x-request-id": "r1"}
    )
    assert listing.status_code == 401
    body = listing.json()
    assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
    assert body["request_id"] == listing.headers["request-id"] == "r1"
    ollama = await tiny.http.get("/api/no-such-thing")
    assert list(ollama.json()) == ["error"]
    assert isinstance(ollama.json()["error"], str)


@pytest.mark.parametrize(
    "garbage", ["", "Bearer", "Bearer  ", "Basic abc", "bearer é", "Bearer " + "x" * 5000]
)
async def test_odd_credentials_are_401(tiny: Api, garbage: str) -> None:
    key_of(tiny, "use")
    headers = [(b"authorization", garbage.encode("latin-1"))]
    assert (await tiny.http.get("/v1/models", headers=headers)).status_code == 401


async def test_a_revoked_key_is_refused_at_once(tiny: Api) -> None:
    key_of(tiny, "use")
    headers = key_of(tiny, "train")
    assert (await tiny.http.get("/v1/models", headers=headers)).status_code == 200
    tiny.services.registry.keys.revoke("train")
    assert (await tiny.http.get("/v1/models", headers=headers)).status_code == 401


async def test_the_last_use_is_noted_once_a_minute(tiny: Api) -> None:
    headers = key_of(tiny, "use")
    [before] = tiny.services.registry.keys.all()
    assert before.used is None
    await tiny.http.get("/v1/models", headers=headers)
    [after] = tiny.services.registry.keys.all()
    assert after.used is not None
    assert abs(after.used - time.time()) < 5
    tiny.services.registry.db.execute("UPDATE keys SET used = 1")
    await tiny.http.get("/v1/models", headers=headers)
    assert tiny.services.registry.keys.all()[0].used == 1


async def test_the_single_key_of_the_settings_may_do_everything(tmp_path: Path) -> None:
    async with running_api(tmp_path / "home", api_key="sésame") as api:
        assert (await api.http.get("/v1/models")).status_code == 401
        headers = [(b"authorization", "Bearer sésame".encode("latin-1"))]
        assert (await api.http.get("/v1/models", headers=headers)).status_code == 200
        unload = await api.http.post("/llamaleon/unload", headers=headers, json={"model": "nano"})
        assert unload.status_code != 403


async def test_training_data_is_not_for_keys_that_may_only_chat(tiny: Api) -> None:
    use, train = key_of(tiny, "use"), key_of(tiny, "train")

    async def upload(headers: dict[str, str], what: Any) -> httpx.Response:
        return await tiny.http.post("/v1/files", headers=headers, data=what[0], files=what[1])

    assert (await upload(use, TRAINING)).status_code == 403
    data = (await upload(train, TRAINING)).json()["id"]
    batch = (await upload(use, BATCH)).json()["id"]
    for path in (f"/v1/files/{data}", f"/v1/files/{data}/content", "/v1/files"):
        assert (await tiny.http.get(path, headers=use)).status_code == 403
        assert (await tiny.http.get(path, headers=train)).status_code == 200
    assert (await tiny.http.delete(f"/v1/files/{data}", headers=use)).status_code == 403
    listed = await tiny.http.get("/v1/files?purpose=batch", headers=use)
    assert [file["id"] for file in listed.json()["data"]] == [batch]
    assert (await tiny.http.get(f"/v1/files/{batch}/content", headers=use)).status_code == 200


async def test_an_exposed_server_without_keys_refuses_everybody(tmp_path: Path) -> None:
    """The last key may be revoked while it runs: that must not open it."""
    async with running_api(tmp_path / "home", host="0.0.0.0") as api:
        assert (await api.http.get("/v1/models")).status_code == 401
        assert (await api.http.get("/health")).status_code == 200
    async with running_api(tmp_path / "open", host="0.0.0.0", insecure=True) as api:
        assert (await api.http.get("/v1/models")).status_code == 200


async def test_an_exposed_server_loads_by_path_from_allowed_folders_only(tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.mkdir()
    other.mkdir()
    inside, outside = write_base(allowed / "in.gguf"), write_base(other / "out.gguf", seed=1)
    (allowed / "link.gguf").symlink_to(outside)
    settings: dict[str, Any] = {"host": "0.0.0.0", "insecure": True, "allow_dirs": (allowed,)}
    async with running_api(tmp_path / "home", **settings) as api:
        assert (await api.post("/llamaleon/bases", path=str(inside))).status_code == 200
        for path in (outside, allowed / "link.gguf", allowed / ".." / "other" / "out.gguf"):
            refused = await api.post("/llamaleon/bases", path=str(path), name="x")
            assert refused.status_code == 403
            assert "--allow-dir" in error_of(refused)["message"]
            assert error_of(refused)["param"] == "path"
        lora = await api.post("/v1/load_lora_adapter", lora_name="x", lora_path=str(other))
        assert (lora.status_code, error_of(lora)["param"]) == (403, "lora_path")


async def test_loopback_loads_from_anywhere(tiny: Api, tmp_path: Path) -> None:
    path = write_base(tmp_path / "more.gguf", seed=2)
    assert (await tiny.post("/llamaleon/bases", path=str(path))).status_code == 200


async def test_the_checks_hold_inside_another_application(tiny: Api) -> None:
    key = key_of(tiny, "use")
    host = Starlette(routes=[Mount("/llm", app=tiny.app)])
    transport = httpx.ASGITransport(host)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/llm") as http:
        assert (await http.get("/v1/models")).status_code == 401
        assert (await http.get("/v1/models", headers=key)).status_code == 200
        assert (await http.post("/llamaleon/bases", headers=key, json={})).status_code == 403
        assert list((await http.get("/api/x")).json()) == ["error"]
        assert (await http.get("/health", headers={"host": "evil.example"})).status_code == 403
