"""`/v1/messages` over the fake engine: Anthropic's shapes, by the types of its own package."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic.types
import httpx
import msgspec
import pytest
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared.error_response import ErrorResponse
from pydantic import TypeAdapter
from tests.api import Api

from llamaleon_server.chat.events import CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import Finish
from llamaleon_server.testing import TIMINGS, Refusal
from llamaleon_server.wire.anthropic import MessagesRequest, parse_messages
from llamaleon_server.wire.anthropic_answer import MessageStream

ANSWER = "Hola, ¿qué tal?"
PROMPT = "<|im_start|>user\n¿Qué tal?<|im_end|>\n<|im_start|>assistant\n"
VERSION = {"anthropic-version": "2023-06-01"}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


async def ask(api: Api, **more: Any) -> httpx.Response:
    body = {
        "model": "tiny",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "¿Qué tal?"}],
        **more,
    }
    return await api.post("/v1/messages", **body)


def named_events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of each event, whose name must be its type."""
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    body = ErrorResponse.model_validate(response.json(), strict=True)
    return response.status_code, body.error.type, body.error.message


async def test_a_plain_answer_has_anthropics_shape(api: Api) -> None:
    response = await ask(api)
    answer = Message.model_validate(response.json(), strict=True)
    assert answer.id.startswith("msg_")
    assert (answer.model, answer.stop_reason, answer.stop_sequence) == ("tiny", "end_turn", None)
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": ANSWER, "citations": None}
    ]
    assert answer.usage.input_tokens == len(PROMPT) + 1
    assert answer.usage.output_tokens == len(ANSWER)
    assert answer.usage.cache_read_input_tokens == 0
    assert api.prompts() == [PROMPT]


async def test_a_stream_has_the_events_in_order(api: Api) -> None:
    events = named_events(await ask(api, stream=True, max_tokens=4))
    for event in events:
        if event["type"] != "ping":
            EVENT.validate_python(event, strict=True)
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == len(PROMPT) + 1
    assert "".join(event["delta"]["text"] for event in events[3:7]) == ANSWER[:4]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert events[-2]["usage"]["output_tokens"] == 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "reason", "found"),
    [
        ({"stop_sequences": ["zzz", "¿"]}, "stop_sequence", "¿"),
        ({"max_tokens": 3}, "max_tokens", None),
        ({}, "end_turn", None),
    ],
)
async def test_why_it_stopped(
    api: Api, stream: bool, more: dict[str, Any], reason: str, found: str | None
) -> None:
    response = await ask(api, stream=stream, **more)
    end = named_events(response)[-2]["delta"] if stream else response.json()
    assert (end["stop_reason"], end["stop_sequence"]) == (reason, found)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("more", "expected", "word"),
    [
        ({"model": "tony"}, (404, "not_found_error"), "tiny"),
        ({"temperature": 2}, (400, "invalid_request_error"), "temperature"),
        ({"messages": 1}, (400, "invalid_request_error"), "messages"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, (400, "invalid_request_error"), "context"),
    ],
)
async def test_errors_before_any_output_are_plain_answers(
    api: Api, stream: bool, more: dict[str, Any], expected: tuple[int, str], word: str
) -> None:
    response = await ask(api, stream=stream, **more)
    assert error_of(response)[:2] == expected
    assert word in error_of(response)[2]
    assert response.headers["request-id"] == response.json()["request_id"]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [("queue_full", 429, "rate_limit_error"), ("engine_error", 500, "api_error")],
)
async def test_errors_of_the_engine(api: Api, code: Any, status: int, kind: str) -> None:
    def refuse(message: Any) -> str:
        raise Refusal(code, "no")

    api.engines.answer = refuse
    assert error_of(await ask(api))[:2] == (status, kind)


async def test_an_error_after_the_beginning_is_the_last_event(api: Api) -> None:
    await ask(api)
    api.engines.last.step_s = 0.02

    async def kill() -> None:
        await asyncio.sleep(0.1)
        api.engines.last.die()

    response, _ = await asyncio.gather(ask(api, stream=True), kill())
    *_, last = named_events(response)
    assert last["type"] == "error"
    assert ErrorResponse.model_validate(last, strict=True).error.type == "api_error"


async def test_counting(api: Api) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "¿Qué tal?"}]}
    response = await api.post("/v1/messages/count_tokens", **body)
    assert MessageTokensCount.model_validate(response.json(), strict=True).input_tokens == len(PROMPT) + 1


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages/batches/x/results"])
async def test_batches_are_refused_by_name(api: Api, path: str) -> None:
    response = await api.http.get(path)
    assert error_of(response)[:2] == (400, "invalid_request_error")
    assert "batches" in error_of(response)[2]


async def test_models_in_anthropics_shape(api: Api) -> None:
    body = (await api.http.get("/v1/models", headers=VERSION)).json()
    found = [ModelInfo.model_validate_json(json.dumps(model), strict=True) for model in body["data"]]
    assert [model.id for model in found] == ["nano", "tiny", "bare"]
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("nano", "bare", False)
    assert "object" in (await api.http.get("/v1/models")).json()
    one = await api.http.get("/v1/models/tiny", headers=VERSION)
    assert one.json()["type"] == "model"
    assert one.json()["max_input_tokens"] > 0


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        ("limit=1", ["nano"], True),
        ("limit=1&after_id=nano", ["tiny"], True),
        ("after_id=tiny", ["bare"], False),
        ("limit=1&before_id=bare", ["tiny"], True),
        ("before_id=tiny", ["nano"], False),
    ],
)
async def test_models_in_pages(api: Api, query: str, names: list[str], more: bool) -> None:
    body = (await api.http.get(f"/v1/models?{query}", headers=VERSION)).json()
    assert ([model["id"] for model in body["data"]], body["has_more"]) == (names, more)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=x", "before_id=x"])
async def test_wrong_pages(api: Api, query: str) -> None:
    response = await api.http.get(f"/v1/models?{query}", headers=VERSION)
    assert error_of(response)[:2] == (400, "invalid_request_error")


async def test_an_unknown_model_and_path_in_anthropics_body(api: Api) -> None:
    assert error_of(await api.http.get("/v1/models/tony", headers=VERSION))[:2] == (404, "not_found_error")
    assert error_of(await api.http.get("/v1/messages/x"))[:2] == (404, "not_found_error")
    assert error_of(await api.http.get("/v1/messages"))[0] == 405


# ---------------------------------------------------------------- blocks


def request(**more: Any) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}], **more}
    return parse_messages(json.dumps(body).encode())


FINISH = Finish(reason="stop", prompt_tokens=10, cached_tokens=4, completion_tokens=5, timings=TIMINGS)


def shown(asked: MessagesRequest, *events: Event) -> list[dict[str, Any]]:
    stream = MessageStream(asked)
    return [msgspec.to_builtins(event) for one in events for event in stream.add(one)]


def test_blocks_open_and_close_as_the_kind_changes() -> None:
    events = shown(
        request(),
        Thinking("Let "),
        Thinking("me."),
        Text("So"),
        CallBegun(0, "call_1", "weather"),
        CallArguments(0, '{"city":'),
        CallArguments(0, '"Lima"}'),
        CallBegun(1, "call_2", "time"),
        Ended("tool_calls", FINISH),
    )
    for event in events:
        EVENT.validate_python(event, strict=True)
    kinds = [
        (event.get("index"), event.get("content_block", event.get("delta", {})).get("type", event["type"]))
        for event in events
    ]
    assert kinds == [
        (0, "thinking"),
        (0, "thinking_delta"),
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (0, "content_block_stop"),
        (1, "text"),
        (1, "text_delta"),
        (1, "content_block_stop"),
        (2, "tool_use"),
        (2, "input_json_delta"),
        (2, "input_json_delta"),
        (2, "input_json_delta"),
        (2, "content_block_stop"),
        (3, "tool_use"),
        (3, "input_json_delta"),
        (3, "content_block_stop"),
        (None, "message_delta"),
        (None, "message_stop"),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["input_tokens"] == 6
    assert events[-2]["usage"]["cache_read_input_tokens"] == 4


def test_thinking_that_shall_not_be_shown() -> None:
    asked = request(thinking={"type": "adaptive", "display": "omitted"})
    events = shown(asked, Thinking("secret"), Text("So"), Ended("stop", FINISH))
    assert "secret" not in json.dumps(events)
    assert [event["type"] for event in events[:3]] == [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    ]


def test_a_context_that_is_full_is_no_limit_of_the_client() -> None:
    full = msgspec.structs.replace(FINISH, reason="length")
    events = shown(request(), Text("x"), Ended("length", full))
    assert events[-2]["delta"]["stop_reason"] == "model_context_window_exceeded"


def test_an_empty_answer_has_no_blocks() -> None:
    assert [event["type"] for event in shown(request(), Ended("stop", FINISH))] == [
        "message_delta",
        "message_stop",
    ]


def test_the_package_still_has_no_ping_type() -> None:
    assert not hasattr(anthropic.types, "PingEvent")  # else the stream test should validate it too
