"""The real `openai` package's embeddings, from a chat model, under an adapter, and from an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gguf
import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from tests.data import shared
from tests.lora import random_lora
from tests.server import RunningServer
from tests.tiny import encoders

CHAT = "stories260K-f32"
TEXTS = ["the cat sat on the mat", "a dog ran under the red tree"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("embeddings")
    encoders.encoder(folder / "encoder.gguf", gguf.PoolingType.MEAN)
    encoders.encoder(folder / "ranker.gguf", gguf.PoolingType.RANK)
    models = [shared(f"stories260K/{CHAT}.gguf"), folder / "encoder.gguf", folder / "ranker.gguf"]
    arguments = [part for model in models for part in ("--model", str(model))]
    with RunningServer(folder / "home", arguments) as running:
        adapter = random_lora(models[0], folder / "mine.gguf", seed=1)
        body = {"lora_name": "mine", "lora_path": str(adapter), "base_model_name": CHAT}
        httpx.post(f"{running.url}/v1/load_lora_adapter", json=body, timeout=60).raise_for_status()
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def vectors(client: OpenAI, model: str, **more: Any) -> Any:
    answer = client.embeddings.create(model=model, input=TEXTS, **more)
    return np.array([one.embedding for one in answer.data])


@pytest.mark.parametrize("model", [CHAT, "encoder"])
def test_vectors_are_of_unit_length_in_both_encodings(client: OpenAI, model: str) -> None:
    packed, plain = vectors(client, model), vectors(client, model, encoding_format="float")
    assert np.allclose(np.linalg.norm(plain, axis=1), 1.0, atol=1e-5)
    assert np.allclose(packed, plain, atol=1e-3)
    cut = vectors(client, model, dimensions=16)
    assert np.allclose(cut, plain[:, :16] / np.linalg.norm(plain[:, :16], axis=1, keepdims=True), atol=1e-3)


def test_usage_counts_the_tokens(client: OpenAI) -> None:
    answer = client.embeddings.create(model="encoder", input=TEXTS)
    assert answer.usage.prompt_tokens == sum(len(encoders.tokens_of(text)) for text in TEXTS)


def test_adapter_by_name_changes_them(client: OpenAI) -> None:
    base, under = vectors(client, CHAT), vectors(client, f"{CHAT}+mine")
    assert (np.sum(base * under, axis=1) < 0.99).all()


def test_model_that_only_embeds_refuses_chat_and_goes_on(client: OpenAI) -> None:
    for model in ("encoder", "ranker"):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "the cat"}])
        assert error.value.param == "model"
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model="encoder", input="the " * 100)
    assert error.value.code == "context_length_exceeded"
    assert vectors(client, "encoder").shape == (2, 64)


def test_rerank(server: RunningServer, client: OpenAI) -> None:
    body = {"model": "ranker", "query": "who sat ?", "documents": TEXTS, "return_documents": True}
    answer = httpx.post(f"{server.url}/v1/rerank", json=body, timeout=60).raise_for_status().json()
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {one["document"]["text"] for one in answer["results"]} == set(TEXTS)
    refused = httpx.post(f"{server.url}/v1/rerank", json={**body, "model": "encoder"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    with pytest.raises(openai.BadRequestError) as error:
        vectors(client, "ranker")
    assert error.value.param == "model"
