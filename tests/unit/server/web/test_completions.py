"""`/v1/completions`: prompts in all their forms, echo, scoring, and the older logprobs shape."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion
from tests.api import Api, error_of, events

from llamaleon_server.testing import FIRST_LOGPROB

ANSWER = "Hola, ¿qué tal?"


async def test_a_plain_answer_has_openais_shape(api: Api) -> None:
    response = await api.complete("Érase")
    answer = Completion.model_validate(response.json(), strict=True)
    assert answer.object == "text_completion"
    assert answer.model == "tiny"
    assert answer.choices[0].text == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("Érase") + 1
    assert api.prompts() == ["Érase"]


async def test_sixteen_tokens_is_the_default(api: Api) -> None:
    api.engines.answer = lambda message: "x" * 100
    response = await api.complete()
    assert response.json()["choices"][0]["text"] == "x" * 16
    assert response.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("uno", ["uno"]),
        (["uno", "dos"], ["uno", "dos"]),
        ([72, 111], [[72, 111]]),
        ([[72], [111, 108]], [[72], [111, 108]]),
    ],
)
async def test_prompts_in_all_their_forms(api: Api, prompt: Any, expected: list[Any]) -> None:
    response = await api.complete(prompt, n=2)
    assert response.status_code == 200, response.text
    assert api.prompts() == [one for one in expected for _ in range(2)]
    assert [choice["index"] for choice in response.json()["choices"]] == list(range(2 * len(expected)))


async def test_scoring_a_text_generates_nothing(api: Api) -> None:
    response = await api.complete("Hola", echo=True, max_tokens=0, logprobs=1)
    [choice] = response.json()["choices"]
    assert choice["text"] == "Hola"
    assert choice["finish_reason"] == "length"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<s>", "H", "o", "l", "a"]
    assert logprobs["token_logprobs"] == [None] + [FIRST_LOGPROB] * 4
    assert logprobs["text_offset"] == [0, 0, 1, 2, 3]
    assert logprobs["top_logprobs"] == [None, *({c: FIRST_LOGPROB} for c in "Hola")]
    assert response.json()["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("max_tokens", [1, 3])
async def test_an_end_is_listed_as_the_token_that_was_drawn(api: Api, max_tokens: int) -> None:
    """lm-evaluation-harness asks for one token and takes one off, whatever it is."""
    api.engines.answer = lambda message: "x" * (max_tokens - 1)
    asked = {"echo": True, "max_tokens": max_tokens, "logprobs": 1}
    [choice] = (await api.complete("Hola", **asked)).json()["choices"]
    drawn = ["x"] * (max_tokens - 1) + ["</s>"]
    assert choice["logprobs"]["tokens"] == ["<s>", "H", "o", "l", "a", *drawn]
    assert choice["logprobs"]["token_logprobs"] == [None] + [FIRST_LOGPROB] * (4 + max_tokens)
    assert choice["logprobs"]["text_offset"][-1] == len(choice["text"]) == 3 + max_tokens
    *chunks, done = events(await api.complete("Hola", **asked, stream=True))
    assert done == "[DONE]"
    listed = [chunk["choices"][0]["logprobs"] or {"tokens": []} for chunk in chunks]
    assert [token for one in listed for token in one["tokens"]] == choice["logprobs"]["tokens"]


async def test_token_prompts_are_echoed_as_text(api: Api) -> None:
    response = await api.complete([1, 241, 33], echo=True, max_tokens=2, logprobs=0)
    [choice] = response.json()["choices"]
    assert choice["text"] == "<s>ñ!Ho"
    assert choice["logprobs"]["tokens"] == ["<s>", "ñ", "!", "H", "o"]
    assert choice["logprobs"]["text_offset"] == [0, 3, 4, 5, 6]
    assert choice["logprobs"]["top_logprobs"] is None


async def test_a_stream_of_several_prompts_echoes_each(api: Api) -> None:
    prompts = ["uno ", "dos "]
    request = {"echo": True, "stream": True, "logprobs": 1, "max_tokens": 4}
    *chunks, last, done = events(
        await api.complete(prompts, **request, stream_options={"include_usage": True})
    )
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    texts = ["", ""]
    offsets: list[list[int]] = [[], []]
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        offsets[choice["index"]] += (choice["logprobs"] or {"text_offset": []})["text_offset"]
    assert texts == ["uno Hola", "dos Hola"]
    assert offsets[0] == [0, *range(8)]  # BOS stands where the text begins


async def test_more_prompts_than_the_engine_queues_are_scored_in_turn(api: Api) -> None:
    most = 0

    def answer(message: object) -> str:
        nonlocal most
        most = max(most, api.engines.last.running)
        return "x"

    api.engines.answer = answer
    response = await api.complete([f"prompt {i}" for i in range(64)])
    assert len(response.json()["choices"]) == 64
    assert most <= api.services.settings.engine.parallel_sequences


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-3": 1}}, "logit_bias.-3"),
        ({"logit_bias": {"3": 101}}, "logit_bias"),
    ],
)
async def test_a_wrong_field_is_named(api: Api, body: dict[str, Any], param: str) -> None:
    response = await api.post("/v1/completions", **{"model": "tiny", "prompt": "x", **body})
    assert response.status_code == 400
    assert error_of(response)["param"].startswith(param)


async def test_best_of_one_and_an_empty_suffix_say_nothing(api: Api) -> None:
    assert (await api.complete(best_of=1, suffix="")).status_code == 200
    assert (await api.complete(best_of=2, n=2, suffix=None)).status_code == 200
