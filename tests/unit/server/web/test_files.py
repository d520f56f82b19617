"""`/v1/files` over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from tests.api import Api

DATA = '{"prompt": "¿Qué?", "completion": "ñ €"}\n'.encode()


async def upload(
    api: Api, data: bytes = DATA, name: str = "datos.jsonl", fields: dict[str, str] | None = None
) -> httpx.Response:
    fields = {"purpose": "fine-tune"} | (fields or {})
    return await api.http.post("/v1/files", data=fields, files={"file": (name, data)})


async def test_upload_retrieve_content_delete(api: Api) -> None:
    response = await upload(api, name="datos ñ.jsonl")
    assert response.status_code == 200
    stored = response.json()
    assert stored == {
        "id": stored["id"],
        "object": "file",
        "bytes": len(DATA),
        "created_at": stored["created_at"],
        "expires_at": None,
        "filename": "datos ñ.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
    path = f"/v1/files/{stored['id']}"
    assert (await api.http.get(path)).json() == stored
    assert (await api.http.get(f"{path}/content")).content == DATA
    assert (await api.http.delete(path)).json() == {"id": stored["id"], "object": "file", "deleted": True}
    gone = await api.http.get(f"{path}/content")
    assert gone.status_code == 404
    assert gone.json()["error"]["param"] == "file_id"


async def test_a_large_file_arrives_in_many_pieces(api: Api) -> None:
    data = bytes(range(256)) * 8192
    stored = (await upload(api, data)).json()
    assert (await api.http.get(f"/v1/files/{stored['id']}/content")).content == data


async def test_the_list_has_pages(api: Api) -> None:
    ids = [(await upload(api, name=f"{n}")).json()["id"] for n in range(3)]
    page = (await api.http.get("/v1/files?limit=2")).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    assert (page["first_id"], page["last_id"]) == (ids[2], ids[1])
    page = (await api.http.get(f"/v1/files?order=asc&after={ids[0]}&purpose=fine-tune")).json()
    assert [file["id"] for file in page["data"]] == ids[1:]
    assert (await api.http.get("/v1/files?purpose=batch")).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=no", "after")],
)
async def test_a_bad_query_is_named(api: Api, query: str, param: str) -> None:
    response = await api.http.get(f"/v1/files?{query}")
    assert response.status_code in {400, 404}
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after[seconds]"),
    ],
)
async def test_bad_fields_are_named_and_nothing_is_kept(api: Api, fields: dict[str, str], param: str) -> None:
    response = await upload(api, fields=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert list((api.services.registry.home / "files").iterdir()) == []


async def test_a_file_that_expires(api: Api) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    stored = (await upload(api, fields=fields)).json()
    assert stored["expires_at"] - stored["created_at"] in {3600, 3601}


async def test_what_is_no_upload(api: Api) -> None:
    assert (await api.http.post("/v1/files", json={"file": "x"})).status_code == 400
    missing = await api.http.post("/v1/files", files={"other": ("a", b"x")}, data={"purpose": "fine-tune"})
    assert missing.json()["error"]["param"] == "file"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    broken = await api.http.post("/v1/files", content=b"--x\r\nnonsense", headers=kind)
    assert broken.status_code == 400
    two = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    response = await api.http.post("/v1/files", files=two, data={"purpose": "fine-tune"})
    assert response.json()["error"]["param"] == "file"
    many = {f"field{number}": "" for number in range(65)}
    assert (await api.http.post("/v1/files", files=two[:1], data=many)).status_code == 400
    assert list((api.services.registry.home / "files").iterdir()) == []


async def test_beyond_the_limit_413_and_nothing_is_kept(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(api.services.settings, max_upload_bytes=10)
    small: Any = type(api.services)(**{**vars(api.services), "settings": settings})
    monkeypatch.setattr(api.app.state, "services", small)
    response = await upload(api)
    assert response.status_code == 413
    assert "limit of 10 bytes" in response.json()["error"]["message"]
    assert list((api.services.registry.home / "files").iterdir()) == []
