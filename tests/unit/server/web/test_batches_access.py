"""Requests of a batch may do what the key of its creator may, and no client can pretend to be one."""

from __future__ import annotations

import json

from tests.api import Api, error_of
from tests.unit.server.web.test_batches import CHAT, ended, line

from llamaleon_server.web.access import ASSUMED


async def test_a_batch_is_run_with_the_rights_of_its_creator(api: Api) -> None:
    _, key = api.services.registry.keys.create("use", "use")
    refused = await api.post("/v1/batches", input_file_id="x", endpoint=CHAT, completion_window="24h")
    assert refused.status_code == 401
    api.http.headers["authorization"] = f"Bearer {key}"
    file = await api.http.post("/v1/files", files={"file": ("b.jsonl", line("a"))}, data={"purpose": "batch"})
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    made = await api.post("/v1/batches", **body)
    assert api.services.registry.batches.get(made.json()["id"]).granted == "use"
    done = await ended(api, made.json()["id"])
    assert done.request_counts is not None
    assert done.request_counts.completed == 1
    content = await api.http.get(f"/v1/files/{done.output_file_id}/content")
    assert json.loads(content.text)["response"]["status_code"] == 200


async def test_rights_cannot_be_claimed_from_outside(api: Api) -> None:
    api.services.registry.keys.create("use", "use")
    response = await api.http.get("/v1/models", headers={ASSUMED: "admin"})
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"
