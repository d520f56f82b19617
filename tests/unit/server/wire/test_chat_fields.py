"""Every field that OpenAI's package knows has been decided about, and is treated as docs/tools.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields
from openai.types.chat import completion_create_params

from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.chat import ChatRequest, parse_chat

DOCS = Path(__file__).parents[4] / "docs" / "tools.md"
TABLE = dict(re.findall(r"^\| `(\w+)` \| (honoured|ignored|refused) \|", DOCS.read_text("utf-8"), re.M))

OPENAI = {
    *completion_create_params.CompletionCreateParamsNonStreaming.__annotations__,
    *completion_create_params.CompletionCreateParamsStreaming.__annotations__,
    *completion_create_params.CompletionCreateParamsBase.__annotations__,
}
BASE = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]

SAMPLES: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "user": "u",
    "web_search_options": {"search_context_size": "low"},
    "frequency_penalty": 0.5,
    "logit_bias": {"3": 1},
    "logprobs": True,
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "n": 2,
    "presence_penalty": 0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "seed": 3,
    "stop": "x",
    "temperature": 0.5,
    "top_p": 0.5,
    "verbosity": "low",
}
KEPT = {"store", "metadata"}  # they change no answer, only what is kept of it: test_stored.py
WITH: dict[str, dict[str, Any]] = {
    "function_call": {"function_call": {"name": "f"}, "functions": [{"name": "f"}]},
    "functions": {"functions": [{"name": "f"}]},
    "parallel_tool_calls": {"parallel_tool_calls": False, "tools": TOOLS},
    "tool_choice": {"tool_choice": "required", "tools": TOOLS},
    "tools": {"tools": TOOLS},
    "top_logprobs": {"top_logprobs": 2, "logprobs": True},
}
# How an answer is given, not what is asked of the model.
ELSEWHERE = {"model", "messages", "stream", "stream_options"}


def parsed(**more: Any) -> ChatRequest:
    return parse_chat(json.dumps(BASE | more).encode())


def body(field: str) -> dict[str, Any]:
    return WITH.get(field) or {field: SAMPLES[field]}


def test_openais_fields_are_all_decided_about() -> None:
    assert TABLE.keys() == OPENAI
    assert SAMPLES.keys() | WITH.keys() | ELSEWHERE == OPENAI


def test_what_is_declared_is_documented() -> None:
    text = DOCS.read_text("utf-8")
    assert [field.name for field in fields(ChatRequest) if f"`{field.name}`" not in text] == []


@pytest.mark.parametrize("field", sorted(OPENAI - ELSEWHERE))
def test_each_is_treated_as_the_table_says(field: str) -> None:
    if TABLE[field] == "refused":
        with pytest.raises(BadRequest) as error:
            parsed(**body(field))
        assert error.value.param == field
        assert field in error.value.message
    else:
        asked = parsed(**body(field)).ask()
        others = {key: value for key, value in body(field).items() if key != field}
        changed = asked != parsed(**others).ask()
        assert changed == (TABLE[field] == "honoured" and field not in KEPT)


@pytest.mark.parametrize("field", sorted(OPENAI - {"model", "messages"}))
def test_null_says_nothing(field: str) -> None:
    assert parsed(**{field: None}).ask() == parsed().ask()
