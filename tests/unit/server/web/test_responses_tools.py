"""Thinking, calls and forms in `/v1/responses`: events in OpenAI's words, and what the chat core is asked."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem
from tests.api import Api, error_of
from tests.unit.server.web.responses import (
    FINISH,
    THOUGHT_AND_CALLS,
    WEATHER,
    Script,
    respond,
    streamed,
    whole,
)

from llamaleon_server.chat.ask import Form, ToolChoice
from llamaleon_server.chat.events import CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import EngineFailed

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


async def test_thinking_text_and_calls_are_items_of_their_own(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, THOUGHT_AND_CALLS)
    answer = whole(await respond(api, tools=[WEATHER]))
    assert [item.type for item in answer.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    thought, _, first, second = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.content is not None
    assert [part.text for part in thought.content] == ["Where is it?"]
    assert (thought.summary, thought.encrypted_content) == ([], None)
    assert isinstance(first, ResponseFunctionToolCall)
    assert (first.call_id, first.name, first.arguments) == ("call_1", "weather", '{"city": "Vigo"}')
    assert isinstance(second, ResponseFunctionToolCall)
    assert (second.call_id, second.arguments, second.status) == ("call_2", '{"city": "Lugo"}', "completed")
    assert answer.output_text == "Let me look."
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 4
    assert answer.usage.output_tokens_details.reasoning_tokens == 3


async def test_every_item_is_streamed_from_its_beginning_to_its_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, THOUGHT_AND_CALLS)
    events = streamed(await respond(api, tools=[WEATHER], stream=True))
    assert [
        (event.type.removeprefix("response."), getattr(event, "output_index", None)) for event in events
    ] == [
        ("created", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
        ("completed", None),
    ]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    ids = {
        event.item_id
        for event in events
        if getattr(event, "output_index", None) == 2 and hasattr(event, "item_id")
    }
    assert ids == {done[2].id}


async def test_a_whole_round_of_tools_with_state(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS, [Text("Rain."), Ended("stop", FINISH)])
    first = whole(await respond(api, tools=[WEATHER]))
    outputs = [
        {"type": "function_call_output", "call_id": call, "output": text}
        for call, text in (("call_1", "rain"), ("call_2", "sun"))
    ]
    second = whole(await respond(api, outputs, previous_response_id=first.id, tools=[WEATHER]))
    assert second.output_text == "Rain."
    user, model, *results = script.asks[1].messages
    assert user == {"role": "user", "content": "¿Qué tal?"}
    assert (model["reasoning_content"], model["content"]) == ("Where is it?", "Let me look.")
    assert [call["function"]["arguments"] for call in model["tool_calls"]] == [
        {"city": "Vigo"},
        {"city": "Lugo"},
    ]
    assert [(message["tool_call_id"], message["content"]) for message in results] == [
        ("call_1", "rain"),
        ("call_2", "sun"),
    ]


async def test_reasoning_survives_a_client_that_keeps_only_what_is_encrypted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS, THOUGHT_AND_CALLS)
    answer = await respond(api, store=False, include=["reasoning.encrypted_content"])
    thought, *_ = whole(answer).output
    assert isinstance(thought, ResponseReasoningItem)
    sent: Any = {
        "type": "reasoning",
        "id": thought.id,
        "summary": [],
        "encrypted_content": thought.encrypted_content,
    }
    whole(await respond(api, [{"role": "user", "content": "Hola"}, sent, {"role": "user", "content": "¿Y?"}]))
    assert script.asks[1].messages[1]["reasoning_content"] == "Where is it?"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_cut_is_incomplete_and_its_call_is_not_read_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    cut: list[Event | Exception] = [
        CallBegun(0, "call_1", "weather"),
        CallArguments(0, '{"ci'),
        Ended("length", FINISH),
    ]
    script = Script(monkeypatch, cut, [Ended("stop", FINISH)])
    answer = await respond(api, tools=[WEATHER], stream=stream)
    response: Any = streamed(answer)[-1].response if stream else whole(answer)
    assert response.status == "incomplete"
    [call] = response.output
    assert (call.status, call.arguments) == ("incomplete", '{"ci')
    again = whole(await respond(api, "¿Y?", previous_response_id=response.id))
    assert [message["role"] for message in script.asks[1].messages] == ["user", "user"]
    assert again.output_text == ""
    assert len(again.output) == 1  # a model that says nothing has said nothing, not none


@pytest.mark.parametrize("stored", [False, True])
async def test_a_failure_in_a_stream_is_its_last_event(
    api: Api, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    Script(monkeypatch, [Thinking("Hm"), Text("Ho"), EngineFailed("It died.")])
    events = streamed(await respond(api, stream=True, store=stored))
    failed = events[-1]
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert (failed.response.error.code, failed.response.error.message) == ("server_error", "It died.")
    assert [item.status for item in failed.response.output] == ["completed", "incomplete"]
    found = await api.http.get(f"/v1/responses/{failed.response.id}")
    assert found.status_code == (200 if stored else 404)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_anything_is_said_is_a_plain_error(
    api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    Script(monkeypatch, [EngineFailed("It died.")])
    assert (await respond(api, stream=stream)).status_code == 500


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "weather"}, ToolChoice("required", ("weather",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            ToolChoice("auto", ("weather",)),
        ),
    ],
)
async def test_tools_and_their_choice_reach_the_chat_core(
    api: Api, monkeypatch: pytest.MonkeyPatch, choice: Any, expected: ToolChoice
) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS)
    answer = whole(await respond(api, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False))
    [ask] = script.asks
    [tool] = ask.tools
    assert (tool.name, tool.description, tool.strict) == ("weather", "Of a city", True)
    assert tool.parameters == WEATHER["parameters"]
    assert ask.tool_choice == expected
    assert ask.parallel_tool_calls is answer.parallel_tool_calls is False
    assert answer.tools[0].to_dict() == WEATHER


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Form(kind="json_object", field="text.format")),
        (
            {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True},
            Form(kind="json_schema", value=SCHEMA, field="text.format.schema"),
        ),
    ],
)
async def test_forms_reach_the_chat_core(
    api: Api, monkeypatch: pytest.MonkeyPatch, form: dict[str, Any], expected: Form | None
) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS)
    text = {"format": form, "verbosity": "low"}
    answer = whole(await api.post("/v1/responses", model="tiny", input="x", text=text))
    assert script.asks[0].form == expected
    assert answer.text is not None
    assert answer.text.verbosity == "low"
    assert answer.text.format is not None
    assert answer.text.format.to_dict() == form


@pytest.mark.parametrize(
    ("effort", "thinking"), [("none", False), ("minimal", False), ("high", True), (None, None)]
)
async def test_effort_reaches_the_chat_core(
    api: Api, monkeypatch: pytest.MonkeyPatch, effort: str | None, thinking: bool | None
) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS)
    answer = whole(await respond(api, reasoning={"effort": effort, "summary": "auto"}))
    assert (script.asks[0].thinking, script.asks[0].effort) == (thinking, effort)
    assert answer.reasoning is not None
    assert (answer.reasoning.effort, answer.reasoning.summary) == (effort, "auto")


async def test_images_become_marks_and_bytes_also_when_a_conversation_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS, THOUGHT_AND_CALLS)
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    parts = [
        {"type": "input_text", "text": "¿Qué es?"},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    first = whole(await respond(api, [{"role": "user", "content": parts}]))
    result = [{"type": "function_call_output", "call_id": "call_1", "output": parts[1:]}]
    whole(await respond(api, result, previous_response_id=first.id))
    assert script.asks[0].messages == [{"role": "user", "content": f"¿Qué es?{MEDIA_MARKER}"}]
    assert script.asks[0].media == (b"pixels",)
    assert script.asks[1].media == (b"pixels", b"pixels")
    assert script.asks[1].messages[-1]["content"] == MEDIA_MARKER


@pytest.mark.parametrize(
    ("image", "field"),
    [
        ({"image_url": "https://example.org/a.png"}, "image_url"),
        ({"image_url": "data:image/png;base64,%"}, "image_url"),
        ({"file_id": "file-1"}, "file_id"),
        ({}, "image_url"),
    ],
)
async def test_images_that_cannot_be_read_are_named(api: Api, image: dict[str, str], field: str) -> None:
    part = {"type": "input_image", **image}
    error = error_of(await respond(api, [{"role": "user", "content": [part]}]))
    assert error["param"] == f"input[0].content[0].{field}"


async def test_a_model_that_cannot_see_says_so(api: Api) -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,cGl4ZWxz"}
    error = error_of(await respond(api, [{"role": "user", "content": [part]}]))
    assert "projector" in error["message"]
