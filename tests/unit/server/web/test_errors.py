"""Every failure leaves as OpenAI's error body, before a stream and inside one."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.api import Api, error_of, events

from llamaleon_server.engine.protocol import FailedCode, Generate
from llamaleon_server.testing import Refusal


def refusing(code: FailedCode) -> Any:
    def answer(message: Generate) -> str:
        raise Refusal(code, "no.")

    return answer


async def test_unknown_model_is_404_with_the_nearest_names(api: Api) -> None:
    response = await api.chat(model="tiney")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "Nearest names: tiny" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_400_also_when_streaming(api: Api, stream: bool) -> None:
    response = await api.chat("x" * 300, stream=stream)
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_429_with_retry_after(api: Api, stream: bool) -> None:
    api.engines.answer = refusing("queue_full")
    response = await api.complete(stream=stream)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert error_of(response)["type"] == "rate_limit_error"


async def test_one_of_several_choices_that_fails_fails_the_request(api: Api) -> None:
    def answer(message: Generate) -> str:
        if message.sampling.seed == 2:
            raise Refusal("bad_request", "the second one.")
        return "x" * 200

    api.engines.answer = answer
    response = await api.chat(n=2, seed=1)
    assert response.status_code == 400
    await asyncio.sleep(0.01)
    assert api.engines.last.running == 0  # the first one was cancelled


async def test_an_engine_that_dies_ends_a_stream_with_an_error_event(api: Api) -> None:
    api.engines.answer = lambda message: "x" * 50

    async def kill_soon() -> None:
        while not (api.engines.opened and api.engines.last.running):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        api.engines.last.gate.clear()
        api.engines.last.die()

    api.engines.answer = lambda message: "x" * 5000
    killing = asyncio.create_task(kill_soon())
    *chunks, last = events(await api.complete(stream=True, max_tokens=5000))
    await killing
    assert chunks, "it died before the stream began"
    assert last["error"]["code"] == "engine_error"
    again = await api.complete()
    assert again.status_code == 200
    assert len(api.engines.opened) == 2


async def test_a_model_that_cannot_be_loaded_says_why_then_503(api: Api) -> None:
    api.engines.fatal = "the file is cut short"
    for _ in range(3):
        response = await api.complete()
        assert response.status_code == 500
        assert "the file is cut short" in error_of(response)["message"]
    response = await api.complete()
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert "the file is cut short" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{"model": "tiny",\n "prompt": }', "line 2"),
        (b"", "JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b"[]", ""),
    ],
)
async def test_malformed_json_is_400_with_the_place(api: Api, content: bytes, where: str) -> None:
    response = await api.http.post("/v1/completions", content=content)
    assert response.status_code == 400
    assert where in error_of(response)["message"]


async def test_unknown_routes_and_methods_have_the_same_body(api: Api) -> None:
    response = await api.http.get("/v1/nothing")
    assert response.status_code == 404
    assert "/v1/nothing" in error_of(response)["message"]
    response = await api.http.get("/v1/completions")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "POST" in error_of(response)["message"]


async def test_our_own_mistakes_are_500_with_a_trace_in_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api.services.registry, "resolve", lambda *_: 1 / 0)
    response = await api.chat()
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "division" not in response.text
    assert response.headers["x-request-id"]


async def test_our_own_mistakes_inside_a_stream_are_an_event(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import llamaleon_server.web.chat as module

    monkeypatch.setattr(module, "last_choice", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.ERROR):
        *_, last = events(await api.chat(stream=True))
    assert last["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in caplog.text


async def test_every_answer_has_a_request_id(api: Api) -> None:
    first, second = await api.http.get("/health"), await api.http.get("/nothing")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    own = await api.http.get("/health", headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    bad = await api.http.get("/health", headers={"x-request-id": "spaces are not"})
    assert bad.headers["x-request-id"].startswith("req_")
