"""Every field that OpenAI's package can send to `/v1/responses` is decided: honoured, ignored or refused."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import response_create_params
from openai.types.responses.input_token_count_params import InputTokenCountParams
from tests.api import Api, error_of
from tests.data import REPOSITORY
from tests.unit.server.web.responses import respond, whole

from llamaleon_server.engine.protocol import Generate
from llamaleon_server.wire.responses import ECHOED, IGNORED, MISPLACED, REFUSED, AskedFields, ResponsesRequest

# What each does is shown by the other tests of this route.
HONOURED = {
    "background",
    "conversation",
    "image",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "metadata",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "store",
    "stream",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
}
VALUES: dict[str, Any] = {
    "access_programs": {"cyber": "standard"},
    "context_management": [{"type": "compaction"}],
    "max_tool_calls": 3,
    "moderation": {"model": "omni-moderation-latest"},
    "prompt": {"id": "pmpt_1"},
    "prompt_cache_key": "key",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "somebody",
    "service_tier": "priority",
    "stream_options": {"include_obfuscation": False},
    "user": "somebody",
}


def test_every_field_of_the_specification_is_decided_once() -> None:
    known = {"stream", *response_create_params.ResponseCreateParamsBase.__annotations__}
    decided = [*HONOURED, *IGNORED, *ECHOED, *REFUSED]
    assert len(decided) == len(set(decided))
    assert set(decided) == known
    assert HONOURED | ECHOED.keys() | REFUSED.keys() <= set(ResponsesRequest.__struct_fields__)
    # `personality` is a hint, like `verbosity`.
    assert set(InputTokenCountParams.__annotations__) - {"personality"} <= set(AskedFields.__struct_fields__)


@pytest.mark.parametrize("field", [*REFUSED, *MISPLACED])
async def test_refused_fields_are_refused_by_name(api: Api, field: str) -> None:
    error = error_of(await respond(api, **{field: VALUES.get(field, 1)}))
    assert error["param"] == field
    assert f"`{field}` is not supported" in error["message"]


@pytest.mark.parametrize("field", IGNORED)
async def test_ignored_fields_change_nothing(api: Api, field: str) -> None:
    stream = {"stream": True} if field == "stream_options" else {}
    response = await respond(api, **{field: VALUES[field]}, **stream)
    assert response.status_code == 200
    if not stream:
        assert whole(response).service_tier == "default"
    assert api.prompts() == ["<|im_start|>user\n¿Qué tal?<|im_end|>\n<|im_start|>assistant\n"]


@pytest.mark.parametrize("field", [*ECHOED, "metadata"])
async def test_echoed_fields_are_kept(api: Api, field: str) -> None:
    value = {"team": "five"} if field == "metadata" else VALUES[field]
    answer = whole(await respond(api, **{field: value}))
    stored = whole(await api.http.get(f"/v1/responses/{answer.id}"))
    assert getattr(answer, field) == getattr(stored, field) == value


async def test_sampling_and_extensions_reach_the_engine(api: Api) -> None:
    answer = whole(
        await respond(
            api, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=11, stop=["x"], max_output_tokens=3
        )
    )
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (0.5, 0.9, 3)
    [message] = [message for message in api.engines.last.received if isinstance(message, Generate)]
    sampling = message.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    assert (sampling.seed, message.stop, message.max_tokens) == (11, ("x",), 3)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        ({"image": {"context_compression": "enabled"}}, "image.context_compression"),
    ],
)
async def test_the_parts_of_a_field_that_would_be_wrong_are_refused(
    api: Api, more: dict[str, Any], param: str
) -> None:
    assert error_of(await respond(api, **more))["param"] == param


def test_the_documentation_has_every_decision() -> None:
    text = (REPOSITORY / "docs" / "responses.md").read_text(encoding="utf-8")
    for field in (*HONOURED, *IGNORED, *ECHOED, *REFUSED):
        assert f"`{field}" in text or f" {field}" in text, field
