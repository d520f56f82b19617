"""`store: true`: kept, listed, changed, deleted, and made into rows to train on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import FileObject
from openai.types.chat import ChatCompletion, ChatCompletionStoreMessage
from tests.api import Api, error_of, events

from llamaleon_server.wire.chat import parse_chat
from llamaleon_server.wire.chat_answer import AnswerMessage, Choice
from llamaleon_server.wire.chat_answer import ChatCompletion as Completion
from llamaleon_server.wire.stored import Exchange, exchange_of, preference_rows, supervised_rows
from llamaleon_server.wire.usage import PromptDetails, Usage

LIST = "/v1/chat/completions"
EXPORT = "/v1/datasets/stored_completions"


async def stored(api: Api, text: str, **more: Any) -> dict[str, Any]:
    response = await api.chat(text, store=True, **more)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def listed(api: Api, **query: Any) -> list[str]:
    response = await api.http.get(LIST, params=query)
    assert response.status_code == 200, response.text
    return [entry["id"] for entry in response.json()["data"]]


async def test_only_what_asks_for_it_is_kept_whole_or_streamed(api: Api) -> None:
    await api.chat("nada")
    whole = await stored(api, "uno", metadata={"tarea": "saludo"})
    streamed = await api.chat("dos", store=True, stream=True)
    chunks = [chunk for chunk in events(streamed) if chunk != "[DONE]"]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert await listed(api) == [whole["id"], chunks[0]["id"]]
    kept = ChatCompletion.model_validate_json(
        (await api.http.get(f"{LIST}/{whole['id']}")).text, strict=True
    ).to_dict()
    assert kept["choices"] == ChatCompletion.model_validate(whole).to_dict()["choices"]
    assert kept["metadata"] == {"tarea": "saludo"}
    again = (await api.http.get(f"{LIST}/{chunks[0]['id']}")).json()
    assert again["choices"][0]["message"]["content"] == text
    assert again["usage"] == whole["usage"]


async def test_a_stream_that_is_left_is_not_kept(api: Api) -> None:
    await api.chat("warm")
    api.engines.answer = lambda message: "lento " * 50
    api.engines.last.step_s = 0.01
    async with api.http.stream(
        "POST",
        LIST,
        json={"model": "tiny", "messages": [{"role": "user", "content": "x"}], "store": True, "stream": True},
    ) as response:
        assert response.status_code == 200
    assert len(await listed(api)) <= 1  # the transport in this process may have read it to its end


async def test_pages_and_filters(api: Api) -> None:
    ids = [
        (await stored(api, f"n{at}", metadata={"par": str(at % 2), "n": str(at)}))["id"] for at in range(5)
    ]
    assert await listed(api, limit=2) == ids[:2]
    assert await listed(api, limit=2, after=ids[1]) == ids[2:4]
    assert await listed(api, order="desc", limit=2) == [ids[4], ids[3]]
    assert await listed(api, order="desc", after=ids[1]) == [ids[0]]
    assert await listed(api, **{"metadata[par]": "1"}) == [ids[1], ids[3]]
    assert await listed(api, **{"metadata[par]": "1", "metadata[n]": "3"}) == [ids[3]]
    assert await listed(api, model="otro") == []
    page = (await api.http.get(LIST, params={"limit": 3})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[2], True)
    for query, param in (({"limit": "x"}, "limit"), ({"order": "up"}, "order"), ({"after": "no"}, "after")):
        response = await api.http.get(LIST, params=query)
        assert response.status_code in {400, 404}
        assert error_of(response)["param"] == param


async def test_metadata_is_replaced_and_deleting_forgets(api: Api) -> None:
    name = (await stored(api, "uno", metadata={"a": "1"}))["id"]
    rated = await api.post(f"{LIST}/{name}", metadata={"nota": "bien"})
    assert rated.json()["metadata"] == {"nota": "bien"}
    assert await listed(api, **{"metadata[a]": "1"}) == []
    assert await listed(api, **{"metadata[nota]": "bien"}) == [name]
    wrong = await api.post(f"{LIST}/{name}", metadata={"x": 3})
    assert (wrong.status_code, error_of(wrong)["param"]) == (400, "metadata")
    gone = await api.http.delete(f"{LIST}/{name}")
    assert gone.json() == {"id": name, "object": "chat.completion.deleted", "deleted": True}
    for response in (
        await api.http.get(f"{LIST}/{name}"),
        await api.http.get(f"{LIST}/{name}/messages"),
        await api.http.delete(f"{LIST}/{name}"),
        await api.post(f"{LIST}/{name}", metadata=None),
    ):
        assert (response.status_code, error_of(response)["param"]) == (404, "completion_id")


async def test_the_messages_that_were_answered(api: Api) -> None:
    parts = [{"type": "text", "text": "¿Qué "}, {"type": "text", "text": "tal?"}]
    said = [{"role": "system", "content": "Breve."}, {"role": "user", "content": parts}]
    name = (await stored(api, "x", messages=said))["id"]
    page = (await api.http.get(f"{LIST}/{name}/messages")).json()
    first, second = (ChatCompletionStoreMessage.model_construct(**entry) for entry in page["data"])
    assert (first.id, first.content) == (f"{name}-0", "Breve.")
    assert second.content == "¿Qué tal?"
    assert [part["text"] for part in page["data"][1]["content_parts"]] == ["¿Qué ", "tal?"]
    last = await api.http.get(f"{LIST}/{name}/messages", params={"order": "desc", "limit": 1})
    assert [entry["id"] for entry in last.json()["data"]] == [f"{name}-1"]
    assert last.json()["has_more"]


async def test_export_makes_a_training_file(api: Api) -> None:
    good = await stored(api, "uno", metadata={"nota": "bien"})
    await stored(api, "dos", metadata={"nota": "mal"})
    response = await api.post(EXPORT, metadata={"nota": "bien"}, filename="buenas.jsonl")
    assert response.status_code == 200, response.text
    made = response.json()
    assert FileObject.model_validate(made).purpose == "fine-tune"
    assert (made["rows"], made["left_out"], made["filename"]) == (1, {}, "buenas.jsonl")
    assert "terms" in made["warning"]
    [row] = (await api.http.get(f"/v1/files/{made['id']}/content")).text.splitlines()
    answer = {"role": "assistant", "content": good["choices"][0]["message"]["content"]}
    assert json.loads(row) == {"messages": [{"role": "user", "content": "uno"}, answer]}


async def test_export_of_nothing_says_why(api: Api) -> None:
    cut = await stored(api, "uno", max_tokens=1)
    assert cut["choices"][0]["finish_reason"] == "length"
    response = await api.post(EXPORT)
    assert response.status_code == 400
    assert "1: ended by length" in error_of(response)["message"]
    for body, param in (
        ({"preferred": {"a": "b"}}, "rejected"),
        ({"rejected": {"a": "b"}}, "preferred"),
    ):
        response = await api.post(EXPORT, **body)
        assert (response.status_code, error_of(response)["param"]) == (400, param)
    unknown = await api.post(EXPORT, metdata={})
    assert unknown.status_code == 400
    assert "`metdata`" in error_of(unknown)["message"]


# ---------------------------------------------------------------- rows, without a server


def exchange(answers: list[str], reason: str = "stop", **asked: Any) -> Exchange:
    request = {"model": "m", "messages": [{"role": "user", "content": "?"}], **asked}
    choices = [
        Choice(index=at, message=AnswerMessage(content=text), logprobs=None, finish_reason=reason)
        for at, text in enumerate(answers)
    ]
    usage = Usage(
        prompt_tokens=1, completion_tokens=1, total_tokens=2, prompt_tokens_details=PromptDetails(0)
    )
    completion = Completion(id="c", created=0, model="m", choices=choices, usage=usage)
    return exchange_of(parse_chat(msgspec.json.encode(request)), completion)


def test_every_choice_is_a_row_with_its_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    made = supervised_rows([exchange(["a", "b"], tools=[tool])])
    assert [row["messages"][-1]["content"] for row in made.rows] == ["a", "b"]
    assert made.rows[0]["tools"] == [tool]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (exchange(["a"], "length"), "ended by length"),
        (
            exchange(
                ["a"],
                messages=[
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
                    }
                ],
            ),
            "images cannot be trained on",
        ),
    ],
)
def test_what_cannot_be_learnt_is_left_out_and_counted(given: Exchange, reason: str) -> None:
    made = supervised_rows([given])
    assert (made.rows, made.left_out) == ([], {reason: 1})


def test_preferences_pair_answers_to_the_same_messages() -> None:
    other = [{"role": "user", "content": "otra"}]
    made = preference_rows(
        [exchange(["bien"]), exchange(["sola"], messages=other)], [exchange(["mal", "peor", "bien"])]
    )
    pairs = [(row["preferred_output"], row["non_preferred_output"]) for row in made.rows]
    said = [(better[0]["content"], worse[0]["content"]) for better, worse in pairs]
    assert said == [("bien", "mal"), ("bien", "peor")]
    assert made.rows[0]["input"] == {"messages": [{"role": "user", "content": "?"}]}
    assert made.left_out == {"no rejected answer to the same messages": 1}
