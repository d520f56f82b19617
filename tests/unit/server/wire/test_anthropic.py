"""Every field of the `anthropic` package's request types: honoured, refused by name, or ignored."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import (
    content_block_param,
    message_count_tokens_params,
    message_create_params,
    thinking_config_param,
    tool_choice_param,
)
from anthropic.types.beta import message_create_params as beta_params

from llamaleon_server.chat.ask import Ask, Form, Tool, ToolChoice
from llamaleon_server.engine.protocol import MEDIA_MARKER
from llamaleon_server.errors import BadRequest
from llamaleon_server.wire.anthropic import IGNORED, MessagesRequest, parse_count, parse_messages
from llamaleon_server.wire.anthropic_signature import signature_of

HELLO = [{"role": "user", "content": "Hola"}]
WEATHER = {"name": "weather", "description": "Of a city.", "input_schema": {"type": "object"}}
PIXEL = base64.b64encode(b"\x89PNG...").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}

# field -> (a value that a client may send, what the Ask then has). Every field that is honoured is here.
HONOURED: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": ("tiny", {}),
    "messages": (HELLO, {"messages": HELLO}),
    "max_tokens": (7, {"max_tokens": 7}),
    "stream": (True, {}),
    "stop_sequences": (["x", "y"], {"stop": ("x", "y")}),
    "system": ("Be brief.", {"messages": [{"role": "system", "content": "Be brief."}, *HELLO]}),
    "thinking": ({"type": "enabled", "budget_tokens": 1024}, {"thinking": True}),
    "tool_choice": ({"type": "any"}, {"tool_choice": ToolChoice("required")}),
    "tools": (
        [WEATHER],
        {
            "tools": (
                Tool(
                    name="weather",
                    description="Of a city.",
                    parameters={"type": "object"},
                    field="tools[0].input_schema",
                ),
            )
        },
    ),
    "output_config": ({"effort": "low"}, {"effort": "low"}),
    # Older clients have these; newer ones send them in `extra_body`.
    "temperature": (0.5, {}),
    "top_p": (0.5, {}),
    "top_k": (5, {}),
    "output_format": (
        {"type": "json_schema", "schema": {"type": "object"}},
        {"form": Form(kind="json_schema", value={"type": "object"}, field="output_format.schema")},
    ),
}
REFUSED: dict[str, Any] = {
    "container": "container_1",
    "compaction": {"type": "enabled"},
    "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}],
    "thread": {"type": "create"},
}


def parsed(**more: Any) -> MessagesRequest:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 100, **more}
    return parse_messages(
        json.dumps({key: value for key, value in body.items() if value is not ...}).encode()
    )


def ask(**more: Any) -> Ask:
    return parsed(**more).ask()


def refused(**more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        ask(**more)
    return error.value


def said(*messages: dict[str, Any], **more: Any) -> list[Mapping[str, Any]]:
    return list(ask(messages=list(messages), **more).messages)


def fields_of(*shapes: Any) -> set[str]:
    return {field for shape in shapes for field in get_type_hints(shape)}


def test_every_field_of_the_package_is_decided() -> None:
    fields = fields_of(
        message_create_params.MessageCreateParamsNonStreaming,
        message_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
        beta_params.MessageCreateParamsNonStreaming,
    )
    headers = {"betas"}
    assert fields - set(HONOURED) - set(REFUSED) - IGNORED - headers == set()
    assert IGNORED.isdisjoint(MessagesRequest.__struct_fields__)
    assert set(HONOURED) | set(REFUSED) == set(MessagesRequest.__struct_fields__)


@pytest.mark.parametrize("field", HONOURED)
def test_honoured(field: str) -> None:
    value, expected = HONOURED[field]
    more = {"tools": [WEATHER]} if field == "tool_choice" else {}
    result = ask(**{**more, field: value})
    for name, wanted in expected.items():
        assert getattr(result, name) == wanted
    if field in ("temperature", "top_p", "top_k"):
        assert getattr(result.wanted, field) == value


@pytest.mark.parametrize("field", REFUSED)
def test_refused_by_name(field: str) -> None:
    assert refused(**{field: REFUSED[field]}).param == field
    assert ask(**{field: None}).messages == HELLO


@pytest.mark.parametrize("field", sorted(IGNORED))
def test_ignored(field: str) -> None:
    assert ask(**{field: {"any": "thing"}}) == ask()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": ...}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        (
            {"tools": [{**WEATHER, "allowed_callers": ["code_execution_20250825"]}]},
            "tools[0].allowed_callers",
        ),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ],
)
def test_wrong_values_name_their_field(more: dict[str, Any], param: str) -> None:
    assert refused(**more).param == param


def test_counting_needs_no_limit() -> None:
    assert parse_count(json.dumps({"model": "tiny", "messages": HELLO}).encode()).ask().messages == HELLO


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "between_tools"}, False),
        ({"type": "adaptive"}, None),
        ({"type": "enabled", "budget_tokens": 2048}, True),
    ],
)
def test_thinking(thinking: Any, expected: bool | None) -> None:
    assert ask(thinking=thinking).thinking is expected


def test_every_kind_of_thinking_and_tool_choice_of_the_package_is_known() -> None:
    kinds = {
        get_args(get_type_hints(one)["type"])[0]
        for one in get_args(thinking_config_param.ThinkingConfigParam)
    }
    assert kinds == {"enabled", "disabled", "adaptive", "between_tools"}
    choices = {
        get_args(get_type_hints(one)["type"])[0] for one in get_args(tool_choice_param.ToolChoiceParam)
    }
    assert choices == {"auto", "any", "tool", "none"}


def test_tool_choices() -> None:
    def choice(**value: Any) -> ToolChoice:
        return ask(tools=[WEATHER], tool_choice=value).tool_choice

    assert choice(type="auto") == ToolChoice("auto")
    assert choice(type="none") == ToolChoice("none")
    assert choice(type="tool", name="weather") == ToolChoice("required", ("weather",))
    assert ask(tools=[WEATHER]).parallel_tool_calls
    one = ask(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not one.parallel_tool_calls


def test_a_structured_output_is_a_form() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert ask(output_config={"format": form}).form == Form(
        kind="json_schema", value={"type": "object"}, field="output_config.format.schema"
    )


# ---------------------------------------------------------------- messages


def test_blocks_and_turns_are_joined() -> None:
    assert said(
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        {"role": "user", "content": "C"},
        system=[
            {"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "T"},
        ],
    ) == [{"role": "system", "content": "S\nT"}, {"role": "user", "content": "A\nB\nC"}]


def test_claude_codes_accounting_does_not_reach_the_model() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=a1b2c;"},
        {"type": "text", "text": "S"},
    ]
    assert said(*HELLO, system=system)[0] == {"role": "system", "content": "S"}


def test_a_prefill_continues() -> None:
    result = ask(messages=[*HELLO, {"role": "assistant", "content": "The best answer is ("}])
    assert result.continue_last
    assert not ask().continue_last


CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Lima"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "18 °C"}]}


def test_tool_calls_and_their_results() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    messages = said(
        *HELLO,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Let me see."}, CALL]},
        {"role": "user", "content": [RESULT, {"type": "text", "text": "Well?"}]},
    )
    assert messages[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Lima"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "name": "weather", "content": "18 °C"},
        {"role": "user", "content": "Well?"},
    ]


def test_a_result_may_be_an_error_or_empty() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"is_error": True}, "Error: 18 °C"),
        ({"content": None}, ""),
        ({"content": "x"}, "x"),
    ]
    for given, text in cases:
        turn = {"role": "user", "content": [{**RESULT, **given}]}
        assert said(*HELLO, {"role": "assistant", "content": [CALL]}, turn)[-1]["content"] == text


def test_results_without_calls_and_calls_without_results() -> None:
    assert (
        refused(messages=[{"role": "user", "content": [RESULT]}]).param
        == "messages[0].content[0].tool_use_id"
    )
    assert refused(messages=[*HELLO, {"role": "assistant", "content": [CALL]}]).param == "messages[1].content"


def test_thinking_that_was_not_shown_comes_back_in_its_signature() -> None:
    hidden: dict[str, Any] = {
        "type": "thinking",
        "thinking": "",
        "signature": signature_of("Hm.", carries=True),
    }
    redacted = {"type": "redacted_thinking", "data": "abc"}
    turn = {"role": "assistant", "content": [redacted, hidden, {"type": "text", "text": "So"}]}
    assert said(*HELLO, turn)[-1] == {"role": "assistant", "content": "So", "reasoning_content": "Hm."}
    forged = {**hidden, "signature": hidden["signature"][:-8]}
    assert "reasoning_content" in said(*HELLO, {"role": "assistant", "content": [forged]})[-1]


def test_images_are_markers_and_bytes() -> None:
    result = ask(messages=[{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}]}])
    assert result.messages == [{"role": "user", "content": f"{MEDIA_MARKER}\nWhat?"}]
    assert result.media == (b"\x89PNG...",)
    assert result.media_fields == ("messages[0].content[0]",)


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ({"type": "url", "url": "http://x/y.png"}, "source.type"),
        ({"type": "file", "file_id": "f"}, "source.type"),
        ({"type": "base64", "media_type": "image/bmp", "data": PIXEL}, "source.media_type"),
        ({"type": "base64", "media_type": "image/png", "data": "not base64!"}, "source.data"),
        ({"type": "base64", "media_type": "image/png", "data": "ñ"}, "source.data"),
        ({"type": "base64", "media_type": "image/png", "data": ""}, "source.data"),
        ({"type": "base64", "media_type": "image/png"}, "source.data"),
        ("x", "source"),
    ],
)
def test_images_that_cannot_be_read(source: Any, param: str) -> None:
    error = refused(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert error.param == f"messages[0].content[0].{param}"


def test_documents_and_search_results_are_text() -> None:
    document = {
        "type": "document",
        "title": "T",
        "context": "C",
        "source": {"type": "text", "media_type": "text/plain", "data": "D"},
    }
    parts = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "P"}]}}
    found = {
        "type": "search_result",
        "title": "R",
        "source": "http://r",
        "content": [{"type": "text", "text": "F"}],
    }
    [message] = said({"role": "user", "content": [document, parts, found]})
    assert message["content"] == "T\nC\nD\nP\nR\nhttp://r\nF"
    cited = {**document, "citations": {"enabled": True}}
    assert (
        refused(messages=[{"role": "user", "content": [cited]}]).param == "messages[0].content[0].citations"
    )
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PIXEL}}
    assert (
        refused(messages=[{"role": "user", "content": [pdf]}]).param == "messages[0].content[0].source.type"
    )


UNDERSTOOD = {
    "text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result",
}  # fmt: skip


def test_blocks_of_anthropics_own_tools_are_refused_by_name() -> None:
    kinds = {
        get_args(get_type_hints(one)["type"])[0] for one in get_args(content_block_param.ContentBlockParam)
    }
    assert kinds > UNDERSTOOD
    for kind in kinds - UNDERSTOOD:
        error = refused(messages=[*HELLO, {"role": "user", "content": [{"type": kind}]}])
        assert error.param == "messages[1].content[0].type"
        assert kind in error.message
