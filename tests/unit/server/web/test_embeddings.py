"""`/v1/embeddings` and `/v1/rerank`: shapes, limits, refusals by name."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse
from tests.api import Api, error_of
from tests.unit.server.registry.peft import write_peft
from tests.unit.server.web.test_disconnect import LeavingClient

from llamaleon_server.engine.protocol import Cancel, Embed, Rank
from llamaleon_server.testing import VECTOR_SIZE, FakeEngine


async def embed(api: Api, given: Any = "Hola", **more: Any) -> Any:
    return await api.post("/v1/embeddings", **{"model": "tiny", "input": given, **more})


async def test_answer_has_openais_shape_and_unit_length(api: Api) -> None:
    response = await embed(api, ["Hola", "¿qué tal?"], user="u")
    answer = CreateEmbeddingResponse.model_validate(response.json(), strict=True)
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.model == "tiny"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 10
    for one in answer.data:
        assert len(one.embedding) == VECTOR_SIZE
        assert np.linalg.norm(one.embedding) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("uno", ["uno"]),
        (["uno", "dos"], ["uno", "dos"]),
        ([72, 111], [[72, 111]]),
        ([[72], [111, 108]], [[72], [111, 108]]),
    ],
)
async def test_inputs_in_all_their_forms(api: Api, given: Any, expected: list[Any]) -> None:
    response = await embed(api, given)
    assert len(response.json()["data"]) == len(expected)
    [message] = api.engines.last.sent(Embed)
    assert isinstance(message, Embed)
    assert message.inputs == expected


async def test_base64_is_the_same_floats(api: Api) -> None:
    plain = (await embed(api)).json()["data"][0]["embedding"]
    packed = (await embed(api, encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == plain


async def test_dimensions_cut_and_make_of_unit_length(api: Api) -> None:
    whole = np.array((await embed(api)).json()["data"][0]["embedding"])
    cut = np.array((await embed(api, dimensions=3)).json()["data"][0]["embedding"])
    assert np.allclose(cut, whole[:3] / np.linalg.norm(whole[:3]), atol=1e-6)
    error = error_of(await embed(api, dimensions=VECTOR_SIZE + 1))
    assert error["param"] == "dimensions"
    assert str(VECTOR_SIZE) in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [1, -1]}, "input"),
        ({"input": [True]}, "input[0]"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "x" * 300}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"model": "unknown"}, "model"),
    ],
)
async def test_refused_by_name(api: Api, body: dict[str, Any], param: str) -> None:
    response = await embed(
        api, **{"given": "x", **{("given" if k == "input" else k): v for k, v in body.items()}}
    )
    assert response.status_code == (404 if param == "model" else 400)
    assert error_of(response)["param"] == param


async def test_too_long_has_openais_code(api: Api) -> None:
    error = error_of(await embed(api, "x" * 300))
    assert error["code"] == "context_length_exceeded"


async def test_adapter_by_name(api: Api, tmp_path: Path) -> None:
    write_peft(tmp_path / "adapter")
    added = await api.post("/v1/load_lora_adapter", lora_name="mine", lora_path=str(tmp_path / "adapter"))
    assert added.status_code == 200, added.text
    base = (await embed(api)).json()["data"][0]["embedding"]
    under = (await embed(api, model="tiny+mine")).json()
    assert under["model"] == "tiny+mine"
    assert under["data"][0]["embedding"] != base
    listed = (await embed(api, lora=[{"id": "mine", "scale": 1.0}])).json()["data"][0]["embedding"]
    assert listed == under["data"][0]["embedding"]


async def test_client_that_leaves_cancels_in_the_engine(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await embed(api)
    engine = api.engines.last
    engine.received.clear()
    send = engine.send

    def never_embeds(message: Any) -> None:
        if isinstance(message, Embed):
            engine.received.append(message)
        else:
            send(message)

    monkeypatch.setattr(engine, "send", never_embeds)
    client = LeavingClient("/v1/embeddings", {"model": "tiny", "input": "x"})
    answering = asyncio.create_task(api.app(client.scope, client.receive, client.send))
    while not engine.sent(Embed):
        await asyncio.sleep(0)
    client.leave.set()
    await asyncio.wait_for(answering, 5)
    [asked] = engine.sent(Embed)
    assert isinstance(asked, Embed)
    assert [one.id for one in engine.sent(Cancel) if isinstance(one, Cancel)] == [asked.id]


# ------------------------------------------------------------ rerank

DOCUMENTS = ["the sun is warm", "the cat sat on the mat", "a cat"]


async def rerank(api: Api, path: str = "/v1/rerank", **more: Any) -> Any:
    body = {"model": "tiny", "query": "cat on mat", "documents": DOCUMENTS, **more}
    return await api.post(path, **body)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
async def test_results_are_sorted(api: Api, path: str) -> None:
    answer = (await rerank(api, path)).json()
    assert [one["index"] for one in answer["results"]] == [1, 2, 0]
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    assert set(answer["results"][0]) == {"index", "relevance_score"}


async def test_documents_as_objects_and_back(api: Api) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    answer = (await rerank(api, documents=documents, top_n=1, return_documents=True)).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0, "document": {"text": DOCUMENTS[1]}},
    ]
    [message] = api.engines.last.sent(Rank)
    assert isinstance(message, Rank)
    assert message.documents == DOCUMENTS


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
    ],
)
async def test_rerank_refused_by_name(api: Api, body: dict[str, Any], param: str) -> None:
    response = await rerank(api, **body)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
async def test_llama_servers_own_shape(api: Api, path: str, field: str) -> None:
    expected = (await embed(api, ["Hola", "a"])).json()["data"]
    answer = (await api.post(path, **{"model": "tiny", field: ["Hola", "a"]})).json()
    assert answer == [{"index": at, "embedding": [one["embedding"]]} for at, one in enumerate(expected)]
    unnamed = await api.post(path, **{field: "Hola"})  # the one in memory is meant
    assert unnamed.json()[0]["embedding"] == [expected[0]["embedding"]]
    error = error_of(await api.post(path, **{"model": "tiny", field: ["a", ""]}))
    assert error["param"] == f"{field}[1]"
    assert error_of(await api.post(path, model="tiny"))["param"] == "content"


async def test_texts_are_answered_as_text_embeddings_inference_does(api: Api) -> None:
    answer = (await api.post("/rerank", model="tiny", query="cat on mat", texts=DOCUMENTS)).json()
    assert [one["index"] for one in answer] == [1, 2, 0]
    assert all(set(one) == {"index", "score"} for one in answer)
    [best] = (
        await api.post(
            "/rerank", model="tiny", query="cat on mat", texts=DOCUMENTS, top_n=1, return_text=True
        )
    ).json()
    assert best == {"index": 1, "score": 1.0, "text": DOCUMENTS[1]}
    error = error_of(await api.post("/rerank", model="tiny", query="x", texts=[]))
    assert error["param"] == "texts"


async def test_long_answers_are_one_valid_document(api: Api) -> None:
    response = await embed(api, [[at] for at in range(1, 2049)], encoding_format="base64")
    answer = json.loads(response.content)
    assert [one["index"] for one in answer["data"]] == list(range(2048))
    assert isinstance(api.engines.last, FakeEngine)
