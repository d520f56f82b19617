"""Ollama's native API over the fake engine: `/api/chat`, `/api/generate`, vectors, what is around them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import ollama
import pytest
from tests.api import Api

from llamaleon_server import testing
from llamaleon_server.engine.protocol import Generate, Sampling

ANSWER = "Hola, ¿qué tal?"
PROMPT = "<|im_start|>user\n¿Qué tal?<|im_end|>\n<|im_start|>assistant\n"
HELLO = [{"role": "user", "content": "¿Qué tal?"}]


async def chat(api: Api, **more: Any) -> httpx.Response:
    return await api.post("/api/chat", **{"model": "tiny", "messages": HELLO, **more})


async def generate(api: Api, **more: Any) -> httpx.Response:
    return await api.post("/api/generate", **{"model": "tiny", "prompt": "¿Qué tal?", **more})


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


def asked(api: Api) -> Generate:
    [*_, last] = [message for message in api.engines.last.received if isinstance(message, Generate)]
    return last


async def test_whoever_looks_finds_a_server(api: Api) -> None:
    for method in ("GET", "HEAD"):
        assert (await api.http.request(method, "/")).status_code == 200
        assert (await api.http.request(method, "/api/version")).status_code == 200
    major, minor, patch = (await api.http.get("/api/version")).json()["version"].split(".")
    assert (int(major), int(minor), int(patch)) >= (0, 6, 4)  # editors ask for that much


@pytest.mark.parametrize("model", ["tiny", "tiny:latest"])
async def test_a_plain_chat(api: Api, model: str) -> None:
    response = await chat(api, model=model, stream=False)
    answer = ollama.ChatResponse.model_validate_json(response.text, strict=True)
    assert (answer.model, answer.message.role, answer.message.content) == (model, "assistant", ANSWER)
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (len(PROMPT) + 1, len(ANSWER))
    assert answer.total_duration is not None
    assert answer.load_duration is not None
    assert answer.total_duration >= answer.load_duration > 0
    assert api.prompts() == [PROMPT]


async def test_chats_stream_unless_told_otherwise(api: Api) -> None:
    lines = lines_of(await chat(api, options={"num_predict": 4}))
    for line in lines:
        ollama.ChatResponse.model_validate_json(json.dumps(line), strict=True)
    assert "".join(line["message"]["content"] for line in lines) == ANSWER[:4]
    assert [line["done"] for line in lines] == [False] * 4 + [True]
    assert lines[-1]["done_reason"] == "length"
    assert lines[-1]["eval_count"] == 4
    assert "eval_count" not in lines[0]


async def test_what_nobody_says_is_ollamas_default(api: Api) -> None:
    await chat(api)
    assert asked(api).sampling == Sampling(temperature=0.8, top_k=40, top_p=0.9, repeat_penalty=1.1)
    assert asked(api).max_tokens is None
    options = {
        "temperature": 0,
        "top_k": 7.0,
        "seed": 5,
        "num_predict": -1,
        "stop": ["x", "y"],
        "num_ctx": 9999,
    }
    await chat(api, options=options)
    assert asked(api).sampling == Sampling(temperature=0, top_k=7, top_p=0.9, repeat_penalty=1.1, seed=5)
    assert asked(api).stop == ("x", "y")
    assert asked(api).max_tokens is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "status", "word"),
    [
        ({"model": "tony"}, 404, "tiny"),
        ({"model": ""}, 400, "model"),
        ({"options": {"temperature": "hot"}}, 400, "temperature"),
        ({"options": {"mirostat": 2}}, 400, "mirostat"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "context"),
        ({"keep_alive": "soon"}, 400, "keep_alive"),
        ({"options": {"stop": [str(at) for at in range(17)]}}, 400, "options.stop"),
        ({"think": True}, 400, "think"),
        ({"think": "high"}, 400, "think"),
    ],
)
async def test_errors_before_any_output_are_plain_answers(
    api: Api, stream: bool, more: dict[str, Any], status: int, word: str
) -> None:
    found, message = error_of(await chat(api, stream=stream, **more))
    assert found == status
    assert word in message


async def test_an_error_after_the_beginning_is_the_last_line(api: Api) -> None:
    await chat(api)
    api.engines.last.step_s = 0.02

    async def kill() -> None:
        await asyncio.sleep(0.1)
        api.engines.last.die()

    response, _ = await asyncio.gather(chat(api), kill())
    first, *_, last = lines_of(response)
    assert first["message"]["content"] == "H"
    assert list(last) == ["error"]


async def test_a_generation_and_its_context(api: Api) -> None:
    response = await generate(api, stream=False, system="Sé breve.")
    answer = ollama.GenerateResponse.model_validate_json(response.text, strict=True)
    assert answer.response == ANSWER
    told = f"<|im_start|>system\nSé breve.<|im_end|>\n{PROMPT}"
    assert api.prompts() == [told]
    assert answer.context == [ord(letter) for letter in told + ANSWER]
    *_, last = lines_of(await generate(api, context=answer.context))
    assert api.prompts()[-1] == told + ANSWER + PROMPT
    assert last["context"] == [ord(letter) for letter in told + ANSWER + PROMPT + ANSWER]


@pytest.mark.parametrize("token", [-1, 0x110000, 2**40])
async def test_a_context_of_another_model(api: Api, token: int) -> None:
    status, message = error_of(await generate(api, context=[1, token]))
    assert status == 400
    assert "context" in message


async def test_a_raw_prompt_stays_as_it_is(api: Api) -> None:
    lines = lines_of(await generate(api, raw=True, options={"num_predict": 2, "temperature": 0}))
    assert [line["response"] for line in lines] == ["H", "o", ""]
    assert "context" not in lines[-1]
    assert api.prompts() == ["¿Qué tal?"]
    assert asked(api).sampling.temperature == 0


async def test_the_middle_of_a_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = await generate(api, prompt="a = ", suffix="\nprint(a)")
    assert error_of(refused)[0] == 400
    assert "middle" in error_of(refused)[1]
    marks = {"<|fim_prefix|>": 0xE001, "<|fim_suffix|>": 0xE002, "<|fim_middle|>": 0xE003}
    plain = testing._tokens

    def tokens(text: str, *, add_special: bool) -> list[int]:
        return [marks[text]] if text in marks else plain(text, add_special=add_special)

    monkeypatch.setattr(testing, "_tokens", tokens)
    lines = lines_of(await generate(api, prompt="a = ", suffix="\nb", options={"num_predict": 2}))
    assert [line["response"] for line in lines] == ["H", "o", ""]
    before, after = ([ord(letter) for letter in text] for text in ("a = ", "\nb"))
    assert asked(api).prompt == [1, 0xE001, *before, 0xE002, *after, 0xE003]


async def test_a_template_of_the_request(api: Api) -> None:
    await generate(api, template="[{{ .System }}] {{ .Prompt }} =>", system="S")
    assert api.prompts() == ["[S] ¿Qué tal? =>"]
    for refused in ("{{ range .Tools }}{{ end }}", "{{" * 20_000, "{{ . " + "{{" * 20_000, "x" * 70_000):
        status, message = error_of(await generate(api, template=refused))
        assert (status, "template" in message.lower()) == (400, True)


async def test_a_format_reaches_the_engine_as_a_grammar(api: Api) -> None:
    for route in (chat, generate):
        await route(api, format={"type": "object", "properties": {"edad": {"type": "integer"}}})
        assert "edad" in (asked(api).grammar or "")
    await generate(api, raw=True, format="json")
    assert asked(api).grammar
    wrong = await chat(api, format={"type": "objet"})
    assert error_of(wrong)[0] == 400
    assert "format" in error_of(wrong)[1]


async def test_logprobs(api: Api) -> None:
    first, *_ = lines_of(await chat(api, logprobs=True, top_logprobs=2))
    [token] = first["logprobs"]
    assert (token["token"], token["bytes"], len(token["top_logprobs"])) == ("H", [72], 2)
    whole = (await chat(api, logprobs=True, stream=False)).json()
    assert len(whole["logprobs"]) == len(ANSWER)


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
async def test_loading_and_unloading(api: Api, route: str) -> None:
    loaded = (await api.post(route, model="tiny", keep_alive="10m")).json()
    assert (loaded["done"], loaded["done_reason"]) == (True, "load")
    [shown] = ollama.ProcessResponse.model_validate_json((await api.http.get("/api/ps")).text).models
    assert (shown.name, shown.context_length) == ("tiny:latest", 256)
    assert shown.expires_at is not None
    assert not api.prompts()
    unloaded = (await api.post(route, model="tiny", keep_alive=0)).json()
    assert unloaded["done_reason"] == "unload"
    assert (await api.http.get("/api/ps")).json() == {"models": []}
    assert (await api.post(route, model="tiny", keep_alive="0s")).json()["done_reason"] == "unload"


async def test_very_long_is_for_ever(api: Api) -> None:
    await chat(api, keep_alive=1e308)
    [shown] = (await api.http.get("/api/ps")).json()["models"]
    assert "2100" < shown["expires_at"] < "2200"


@pytest.mark.parametrize("dimensions", [0, -3])
async def test_no_dimensions_are_all(api: Api, dimensions: int) -> None:
    answer = (await api.post("/api/embed", model="tiny", input="x", dimensions=dimensions)).json()
    assert len(answer["embeddings"][0]) == 8


@pytest.mark.parametrize("option", ["top_k", "num_predict", "seed", "num_ctx"])
async def test_numbers_that_no_message_can_carry(api: Api, option: str) -> None:
    response = await chat(api, options={option: 2**70}, stream=False)
    if response.status_code == 200:
        assert msgspec.msgpack.encode(asked(api))
    else:
        assert error_of(response)[0] == 400
        assert option in error_of(response)[1]


async def test_a_model_stays_as_long_as_the_request_says(api: Api) -> None:
    await chat(api, keep_alive=-1)
    [shown] = (await api.http.get("/api/ps")).json()["models"]
    assert shown["expires_at"] > "2100"
    await chat(api, keep_alive=0, stream=False)
    for _ in range(100):
        if not (await api.http.get("/api/ps")).json()["models"]:
            break
        await asyncio.sleep(0.02)
    assert (await api.http.get("/api/ps")).json() == {"models": []}


async def test_unloading_waits_for_who_is_being_answered(api: Api) -> None:
    await chat(api)
    engine = api.engines.last
    engine.gate.clear()
    answering = asyncio.create_task(chat(api, stream=False))
    while not engine.running:
        await asyncio.sleep(0.01)
    assert (await api.post("/api/chat", model="tiny", keep_alive=0)).json()["done_reason"] == "unload"
    engine.gate.set()
    assert (await answering).json()["message"]["content"] == ANSWER
    while (await api.http.get("/api/ps")).json()["models"]:
        await asyncio.sleep(0.01)
    await chat(api)  # and what was said of the one that left does not hold for the next
    await asyncio.sleep(0.1)
    assert len((await api.http.get("/api/ps")).json()["models"]) == 1


async def test_vectors(api: Api) -> None:
    response = await api.post("/api/embed", model="tiny", input=["ab", "c"], dimensions=3)
    answer = ollama.EmbedResponse.model_validate_json(response.text, strict=True)
    assert [len(vector) for vector in answer.embeddings] == [3, 3]
    assert sum(value * value for value in answer.embeddings[0]) == pytest.approx(1, abs=1e-6)
    assert answer.prompt_eval_count == 5
    one = ollama.EmbeddingsResponse.model_validate_json(
        (await api.post("/api/embeddings", model="tiny", prompt="ab")).text, strict=True
    )
    assert sum(value * value for value in one.embedding) == pytest.approx(5)  # not of unit length: BOS, a, b


async def test_no_vectors_load_the_model(api: Api) -> None:
    assert (await api.post("/api/embed", model="tiny")).json()["embeddings"] == []
    assert (await api.post("/api/embeddings", model="tiny")).json() == {"embedding": []}
    assert len((await api.http.get("/api/ps")).json()["models"]) == 1


async def test_long_inputs_are_cut_unless_told_otherwise(api: Api) -> None:
    refused = await api.post("/api/embed", model="tiny", input="x" * 500, truncate=False)
    assert error_of(refused)[0] == 400
    cut = await api.post("/api/embed", model="tiny", input="x" * 500)
    assert cut.json()["prompt_eval_count"] == 256


async def test_push_is_refused_by_name(api: Api) -> None:
    status, message = error_of(await api.post("/api/push", model="tiny"))
    assert status == 400
    assert "push" in message


async def test_unknown_paths_in_ollamas_body(api: Api) -> None:
    assert error_of(await api.post("/api/me"))[0] == 404
    assert error_of(await api.http.get("/api/chat"))[0] == 405
