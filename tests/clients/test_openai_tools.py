"""The real `openai` package, tools and forms, against a real server with the small model that ships.

It knows nothing of tools: what makes its calls valid is the grammar alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from pydantic import BaseModel, Field
from tests.server import RunningServer

CITY: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
USER: Any = [{"role": "user", "content": "Weather in Lima?"}]


class Weather(BaseModel):
    city: str = Field(max_length=12)
    unit: str = Field(pattern="^[CF]$")
    days: int = Field(ge=1, le=9)


class Story(BaseModel):
    title: str = Field(max_length=20)
    pages: int = Field(ge=1, le=99)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("tools") / "home", ["--parallel", "4"]) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_is_always_valid(client: OpenAI, seed: int) -> None:
    answer = client.chat.completions.create(
        model="nano",
        messages=USER,
        tools=[CITY],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.5,
        seed=seed,
        max_tokens=200,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    Weather.model_validate_json(call.function.arguments, strict=True)


def test_a_streamed_call_is_accumulated_by_the_client(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    with client.chat.completions.stream(
        model="nano", messages=USER, tools=[CITY, TIME], tool_choice=named, seed=3, max_tokens=200
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    [call] = final.choices[0].message.tool_calls or []
    Weather.model_validate_json(call.function.arguments, strict=True)
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_form_is_parsed_by_the_client(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="nano", messages=USER, response_format=Story, seed=1, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Story)


def test_a_conversation_with_a_result_goes_on(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages: Any = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"time": "12:00"})},
    ]
    answer = client.chat.completions.create(model="nano", messages=messages, tools=[TIME], max_tokens=8)
    assert answer.choices[0].finish_reason in {"length", "stop", "tool_calls"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
