"""llama-server's native routes, and vLLM's words for two of them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.api import Api, error_of


def pieces(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines]  # no `[DONE]`: these clients would not know it


async def test_tokens_in_both_dialects(api: Api) -> None:
    theirs = (await api.post("/tokenize", model="tiny", content="hé")).json()
    assert theirs == {"tokens": [104, 233], "count": 2, "max_model_len": 256}
    with_bos = (await api.post("/tokenize", model="tiny", content="h", add_special=True)).json()
    assert with_bos["tokens"] == [1, 104]
    vllm = (await api.post("/tokenize", model="tiny", prompt="h")).json()
    assert vllm["tokens"] == [1, 104]  # vLLM adds special tokens unless told otherwise
    mixed = (await api.post("/tokenize", model="tiny", content=[7, "h"])).json()
    assert mixed["tokens"] == [7, 104]
    shown = (await api.post("/tokenize", model="tiny", content="é", with_pieces=True)).json()
    assert shown["tokens"] == [{"id": 233, "piece": "é"}]
    back = (await api.post("/detokenize", model="tiny", tokens=[104, 233])).json()
    assert back == {"content": "hé", "prompt": "hé"}


async def test_tokens_that_are_none(api: Api) -> None:
    for tokens in ([-1], [0x110000], [2**40]):
        refused = await api.post("/detokenize", model="tiny", tokens=tokens)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "tokens")
    nothing = await api.post("/tokenize", model="tiny")
    assert error_of(nothing)["param"] == "content"


async def test_what_a_harness_asks_first(api: Api) -> None:
    info = (await api.http.get("/tokenizer_info", params={"model": "tiny"})).json()
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert "im_start" in info["chat_template"]


async def test_without_a_model_it_is_the_one_in_memory(api: Api) -> None:
    several = await api.post("/tokenize", content="h")
    assert (several.status_code, error_of(several)["param"]) == (400, "model")
    await api.complete()
    assert (await api.post("/tokenize", content="h")).status_code == 200


async def test_a_completion(api: Api) -> None:
    answer = (
        await api.post("/completion", model="tiny", prompt="Hola", n_predict=4, return_tokens=True)
    ).json()
    assert answer["content"] == "Hola"  # four of what the fake engine says
    assert answer["tokens"] == [ord(character) for character in "Hola"]
    assert (answer["stop"], answer["stop_type"], answer["truncated"]) == (True, "limit", False)
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (4, 5)
    settings = answer["generation_settings"]
    assert (settings["temperature"], settings["top_k"], settings["n_predict"]) == (0.8, 40, 4)  # llama.cpp's
    assert answer["timings"]["predicted_n"] == 4


async def test_a_stream_ends_with_stop_true(api: Api) -> None:
    response = await api.post("/completion", model="tiny", prompt="x", stream=True, stop=["tal"])
    *pieces_, last = pieces(response)
    assert "".join(piece["content"] for piece in pieces_) == "Hola, ¿qué "
    assert all(not piece["stop"] and len(piece["tokens"]) == 1 for piece in pieces_)
    assert (last["stop"], last["stop_type"], last["stopping_word"], last["content"]) == (
        True,
        "word",
        "tal",
        "",
    )


async def test_several_prompts_and_prompts_of_tokens(api: Api) -> None:
    both = (await api.post("/completion", model="tiny", prompt=["a", [98, 99]], n_predict=1)).json()
    assert [one["index"] for one in both] == [0, 1]
    await api.post("/completion", model="tiny", prompt=[1, 97, "b"], n_predict=1)
    assert api.prompts() == ["a", [98, 99], [1, 97, 98]]


async def test_probabilities_and_fields(api: Api) -> None:
    answer = (await api.post("/completion", model="tiny", prompt="x", n_predict=2, n_probs=3)).json()
    first = answer["completion_probabilities"][0]
    assert (first["id"], first["token"], len(first["top_logprobs"])) == (ord("H"), "H", 3)
    asked = ["content", "generation_settings/seed", "generation_settings/n_predict"]
    picked = (
        await api.post("/completion", model="tiny", prompt="x", n_predict=2, seed=7, response_fields=asked)
    ).json()
    assert picked == {"content": "Ho", "generation_settings/seed": 7, "generation_settings/n_predict": 2}


async def test_biases_in_every_shape(api: Api) -> None:
    for bias in ([[104, -1.5], ["é", False]], {"104": -1.5, "é": False}, [[104, -1.5], [233, -(10**400)]]):
        answer = (
            await api.post("/completion", model="tiny", prompt="x", n_predict=1, logit_bias=bias)
        ).json()
        shown = answer["generation_settings"]["logit_bias"]
        assert shown == [{"token": 104, "bias": -1.5}, {"token": 233, "bias": -100.0}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt.prompt_string"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", 2.5]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": {"prompt_string": "<__media__>", "multimodal_data": "AAAA"}}, "prompt"),
        ({"prompt": {"prompt_string": "x", "multimodal_data": "?"}}, "prompt"),
        ({"prompt": "x", "logit_bias": 5}, "logit_bias"),
        ({"prompt": "x", "logit_bias": [[1]]}, "logit_bias"),
        ({"prompt": "x", "post_sampling_probs": True}, "post_sampling_probs"),
        ({"prompt": "x", "n_probs": 99}, "n_probs"),
    ],
)
async def test_what_cannot_be_is_named(api: Api, body: dict[str, Any], param: str) -> None:
    refused = await api.post("/completion", model="tiny", **body)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param), refused.text


async def test_a_vocabulary_without_marks_cannot_fill_in(api: Api) -> None:
    refused = await api.post("/infill", model="tiny", input_prefix="a", input_suffix="b")
    assert refused.status_code == 400
    assert "fill in the middle" in error_of(refused)["message"]


async def test_the_prompt_of_a_chat(api: Api) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "¿Qué?"}]}
    shown = (await api.post("/apply-template", **chat)).json()["prompt"]
    assert shown == "<|im_start|>user\n¿Qué?<|im_end|>\n<|im_start|>assistant\n"
    without = (await api.post("/apply-template", add_generation_prompt=False, **chat)).json()["prompt"]
    assert without == "<|im_start|>user\n¿Qué?<|im_end|>\n"
    chat["tools"] = [{"type": "function", "function": {"name": "clima", "parameters": {"type": "object"}}}]
    shown = (await api.post("/apply-template", **chat)).json()["prompt"]
    without = (await api.post("/apply-template", add_generation_prompt=False, **chat)).json()["prompt"]
    assert "clima" in without
    assert shown == f"{without}<|im_start|>assistant\n"


async def test_props_and_what_has_no_v1(api: Api) -> None:
    props = (await api.http.get("/props", params={"model": "tiny"})).json()
    assert props["model_path"].endswith("tiny.gguf")
    assert props["default_generation_settings"]["n_ctx"] == 64, "what the model was trained for"
    await api.complete(max_tokens=1)
    props = (await api.http.get("/props", params={"model": "tiny"})).json()
    assert props["default_generation_settings"]["n_ctx"] == 256, "what it has been loaded with"
    assert (await api.http.get("/v1/health")).json()["status"] == "ok"
    assert (await api.http.get("/models")).json() == (await api.http.get("/v1/models")).json()
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    assert (await api.post("/chat/completions", **chat)).json()["object"] == "chat.completion"
    assert (await api.http.get("/lora-adapters", params={"model": "tiny"})).json() == []
    scales = await api.http.post("/lora-adapters", json=[{"id": 0, "scale": 1.0}])
    assert scales.status_code == 400
