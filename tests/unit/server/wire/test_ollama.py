"""Ollama's requests: every field that its own client can send, messages, tools and options."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import ollama
import pytest
from ollama import _types as package

from llamaleon_server.chat.ask import Ask, Form, Tool, Wanted
from llamaleon_server.chat.events import CallArguments, CallBegun, Ended, Event, Text, Thinking
from llamaleon_server.engine.protocol import MEDIA_MARKER, Finish
from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.parameters import meaning_of
from llamaleon_server.testing import TIMINGS
from llamaleon_server.wire.ollama.answers import ChatLine, Clock, GenerateLine, Lines
from llamaleon_server.wire.ollama.models import UNMADE, CreateRequest, PullRequest, ShowRequest
from llamaleon_server.wire.ollama.requests import (
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Sampled,
    parse,
)

HELLO = [{"role": "user", "content": "Hola"}]
SAMPLED = Sampled(wanted=Wanted(temperature=0.1), stop=("x",), max_tokens=5)
PIXEL = base64.b64encode(b"\x89PNG...").decode()


def ask(**more: Any) -> Ask:
    body = json.dumps({"model": "tiny", "messages": HELLO, **more}).encode()
    return parse(body, ChatRequest).ask(SAMPLED)


def refused(**more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        ask(**more)
    return error.value


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (package.ChatRequest, ChatRequest),
        (package.GenerateRequest, GenerateRequest),
        (package.EmbedRequest, EmbedRequest),
        (package.EmbeddingsRequest, EmbeddingsRequest),
        (package.CreateRequest, CreateRequest),
        (package.PullRequest, PullRequest),
        (package.ShowRequest, ShowRequest),
    ],
)
def test_every_field_that_the_client_can_send_is_decided(theirs: Any, ours: Any) -> None:
    assert set(theirs.model_fields) <= set(ours.__struct_fields__)


def test_every_option_that_the_client_can_send_is_decided() -> None:
    neutral = {
        "mirostat": 0,
        "tfs_z": 1.0,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "stop": ["x"],
        "use_mmap": True,
    }
    for name in ollama.Options.model_fields:
        meaning_of([(name, neutral.get(name, 1))], "options")
    for name in ("mirostat", "tfs_z", "typical_p", "repeat_last_n"):
        with pytest.raises(BadRequest) as error:
            meaning_of([(name, 2)], "options")
        assert error.value.param == f"options.{name}"


def test_what_it_means() -> None:
    result = ask(format="json", think="high", logprobs=True, top_logprobs=3)
    assert result.messages == HELLO
    assert (result.wanted, result.stop, result.max_tokens) == (SAMPLED.wanted, ("x",), 5)
    assert result.form == Form(kind="json_object", field="format")
    assert (result.thinking, result.effort) == (True, "high")
    assert result.logprobs == 3
    assert ask(format={"type": "object"}).form == Form(
        kind="json_schema", value={"type": "object"}, field="format"
    )
    assert ask(format="").form is None
    assert (ask().thinking, ask(think=False).thinking) == (None, False)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": ""}, "model"),
        ({"format": "xml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "bot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "images": ["no base64!"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "user", "images": [""]}]}, "messages[0].images[0]"),
        ({"tools": [{"type": "web", "function": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "x"}}] * 2}, "tools[1].function.name"),
    ],
)
def test_wrong_values_name_their_field(more: dict[str, Any], param: str) -> None:
    assert refused(**more).param == param


def test_tools_calls_and_results() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    calls = [{"function": {"name": name, "arguments": {"a": at}}} for at, name in enumerate(["f", "g", "f"])]
    result = ask(
        tools=[tool],
        messages=[
            *HELLO,
            {"role": "Assistant", "content": "", "thinking": "Hm.", "tool_calls": calls},
            {"role": "tool", "content": "of g", "tool_name": "g"},
            {"role": "tool", "content": "of the first f"},
            {"role": "tool", "content": "of the second", "tool_call_id": "call00003"},
        ],
    )
    assert result.tools == (
        Tool(name="f", parameters={"type": "object"}, field="tools[0].function.parameters"),
    )
    _, called, *answered = result.messages
    assert called["reasoning_content"] == "Hm."
    assert [call["id"] for call in called["tool_calls"]] == ["call00001", "call00002", "call00003"]
    assert called["tool_calls"][1]["function"] == {"name": "g", "arguments": {"a": 1}}
    assert [(turn["tool_call_id"], turn["name"]) for turn in answered] == [
        ("call00002", "g"),
        ("call00001", "f"),
        ("call00003", "f"),
    ]


def test_images_come_before_the_text() -> None:
    result = ask(messages=[{"role": "user", "content": "What?", "images": [PIXEL, PIXEL]}])
    assert result.messages[0]["content"] == f"{MEDIA_MARKER}\n{MEDIA_MARKER}\nWhat?"
    assert result.media == (b"\x89PNG...",) * 2
    assert result.media_fields == ("messages[0].images[0]", "messages[0].images[1]")


def test_a_beginning_of_the_answer_is_continued() -> None:
    assert ask(messages=[*HELLO, {"role": "assistant", "content": "So"}]).continue_last
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    assert not ask(messages=[*HELLO, called]).continue_last


def generation(**more: Any) -> GenerateRequest:
    asked = parse(json.dumps({"model": "tiny", "prompt": "Hola", **more}).encode(), GenerateRequest)
    asked.check()
    return asked


def test_a_generation_is_a_conversation_of_one_turn() -> None:
    result = generation(system="S", images=[PIXEL]).ask(SAMPLED, "before")
    assert result.messages == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": f"{MEDIA_MARKER}\nHola"},
    ]
    assert result.preamble == "before"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"suffix": "x", "context": [1]}, "context"),
        ({"width": 512}, "width"),
        ({"raw": True, "system": "S"}, "system"),
        ({"raw": True, "template": "T"}, "template"),
        ({"raw": True, "context": [1]}, "context"),
        ({"raw": True, "images": [PIXEL]}, "images"),
    ],
)
def test_generations_that_cannot_be(more: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as error:
        generation(**more)
    assert error.value.param == param


@pytest.mark.parametrize("param", UNMADE)
def test_models_that_cannot_be_made(param: str) -> None:
    value: Any = {"x": "y"} if param == "draft_files" else "x"
    with pytest.raises(BadRequest) as error:
        CreateRequest(model="m", from_="n", **{param: value}).check()
    assert error.value.param == param


# ---------------------------------------------------------------- answers

FINISH = Finish(reason="stop", prompt_tokens=10, cached_tokens=4, completion_tokens=5, timings=TIMINGS)
EVENTS: list[Event] = [
    Thinking("Hm."),
    Text("So"),
    CallBegun(0, "call_1", "f"),
    CallArguments(0, '{"a":'),
    CallArguments(0, " 1}"),
    CallBegun(1, "call_2", "g"),
    Ended("tool_calls", FINISH),
]


def test_calls_are_sent_when_they_are_complete() -> None:
    lines = Lines("m", Clock(), chat=True)
    shown = [line for event in EVENTS for line in lines.add(event)]
    assert all(isinstance(line, ChatLine) for line in shown)
    for line in shown:
        ollama.ChatResponse.model_validate_json(json.dumps(_plain(line)), strict=True)
    messages = [_plain(line)["message"] for line in shown]
    assert messages == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "So"},
        {"role": "assistant", "content": "", "tool_calls": [_call(0, "f", {"a": 1})]},
        {"role": "assistant", "content": "", "tool_calls": [_call(1, "g", {})]},
        {"role": "assistant", "content": ""},
    ]
    last = _plain(shown[-1])
    assert [line.done for line in shown] == [False] * 4 + [True]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 10, 5)
    assert last["prompt_eval_duration"] == 10_000_000
    assert last["eval_duration"] == 100_000_000


def test_a_generation_has_its_text_in_response() -> None:
    lines = Lines("m", Clock(), chat=False)
    [thought, text, *_, last] = [line for event in EVENTS for line in lines.add(event)]
    assert isinstance(thought, GenerateLine)
    assert (thought.response, thought.thinking) == ("", "Hm.")
    assert isinstance(text, GenerateLine)
    assert text.response == "So"
    ollama.GenerateResponse.model_validate_json(json.dumps(_plain(last)), strict=True)


def _call(index: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"call_{index + 1}",
        "function": {"index": index, "name": name, "arguments": arguments},
    }


def _plain(line: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(line)
    return plain
