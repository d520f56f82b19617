"""`/v1/conversations`: kept items, which responses read and add to."""

from __future__ import annotations

from typing import Any

from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList
from tests.api import Api, error_of
from tests.unit.server.web.responses import respond, whole

ANSWER = "Hola, ¿qué tal?"


def message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def made(api: Api, **body: Any) -> Conversation:
    response = await api.post("/v1/conversations", **body)
    assert response.status_code == 200, response.text
    return Conversation.model_validate_json(response.text, strict=True)


async def items(api: Api, name: str, **query: Any) -> list[Any]:
    response = await api.http.get(f"/v1/conversations/{name}/items", params={"order": "asc", **query})
    return list(ConversationItemList.model_validate_json(response.text, strict=True).data)


async def test_made_changed_and_forgotten(api: Api) -> None:
    conversation = await made(api, metadata={"k": "v"}, items=[message("Uno")])
    path = f"/v1/conversations/{conversation.id}"
    assert conversation.id.startswith("conv_")
    assert (await api.http.get(path)).json() == conversation.to_dict()
    assert (await api.post(path, metadata={"k": "w"})).json()["metadata"] == {"k": "w"}
    added = await api.post(f"{path}/items", items=[message("Dos"), message("Tres")])
    assert [item["content"][0]["text"] for item in added.json()["data"]] == ["Dos", "Tres"]
    found = await items(api, conversation.id)
    assert [item.content[0].text for item in found] == ["Uno", "Dos", "Tres"]
    one = f"{path}/items/{found[1].id}"
    assert (await api.http.get(one)).json()["content"][0]["text"] == "Dos"
    assert (await api.http.delete(one)).json()["id"] == conversation.id
    assert [item.content[0].text for item in await items(api, conversation.id)] == ["Uno", "Tres"]
    gone = await api.http.delete(path)
    ConversationDeletedResource.model_validate_json(gone.text, strict=True)
    for method, end in (
        ("GET", ""),
        ("POST", ""),
        ("DELETE", ""),
        ("GET", "/items"),
        ("GET", f"/items/{found[0].id}"),
    ):
        json: Any = {"metadata": {}} if method == "POST" else None
        assert (await api.http.request(method, path + end, json=json)).status_code == 404
    assert api.services.registry.db.rows("SELECT * FROM items") == []


async def test_responses_read_it_and_add_to_it(api: Api) -> None:
    conversation = await made(api, items=[message("Uno")])
    first = whole(await respond(api, "Dos", conversation=conversation.id))
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    whole(await respond(api, "Tres", conversation={"id": conversation.id}, store=False))
    texts = [item.content[0].text for item in await items(api, conversation.id)]
    assert texts == ["Uno", "Dos", ANSWER, "Tres", ANSWER]
    assert [part for part in ("Uno", "Dos", ANSWER, "Tres") if part in api.prompts()[-1]] == [
        "Uno",
        "Dos",
        ANSWER,
        "Tres",
    ]
    whole(await respond(api, "Otra", conversation=conversation.id, background=True))


async def test_what_is_wrong_is_named(api: Api) -> None:
    conversation = await made(api)
    path = f"/v1/conversations/{conversation.id}"
    for route, body, param in (
        (f"{path}/items", {}, "items"),
        (f"{path}/items", {"items": []}, "items"),
        (f"{path}/items", {"items": [message("x")] * 21}, "items"),
        (f"{path}/items", {"items": [{"type": "no"}]}, "items[0].type"),
        (path, {}, "metadata"),
        ("/v1/conversations", {"items": [{"role": "user"}]}, "items[0].content"),
    ):
        response = await api.post(route, **body)
        assert (response.status_code, error_of(response)["param"]) == (400, param)
    first = whole(await respond(api, "Uno", conversation=conversation.id))
    error = error_of(await respond(api, "Dos", previous_response_id=first.id))
    assert error["param"] == "previous_response_id"
    assert conversation.id in error["message"]
