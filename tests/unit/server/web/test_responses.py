"""`/v1/responses`: shapes, state and what the model reads, over the fake engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseItemList
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from tests.api import Api, error_of
from tests.lora import random_lora
from tests.unit.server.web.responses import THOUGHT_AND_CALLS, WEATHER, Script, respond, streamed, whole

from llamaleon_server.engine.protocol import Generate

ANSWER = "Hola, ¿qué tal?"
PROMPT = "<|im_start|>user\n¿Qué tal?<|im_end|>\n<|im_start|>assistant\n"


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def asked(api: Api) -> list[Generate]:
    return [message for message in api.engines.last.received if isinstance(message, Generate)]


async def items_of(api: Api, name: str, **query: Any) -> Any:
    response = await api.http.get(f"/v1/responses/{name}/input_items", params=query)
    assert response.status_code == 200, response.text
    return ResponseItemList.model_validate_json(response.text, strict=True)


async def test_a_plain_answer_has_openais_shape_and_exact_counts(api: Api) -> None:
    answer = whole(await respond(api))
    assert answer.id.startswith("resp_")
    assert (answer.status, answer.model, answer.output_text) == ("completed", "tiny", ANSWER)
    assert (answer.temperature, answer.top_p, answer.tool_choice, answer.tools) == (1.0, 1.0, "auto", [])
    [message] = answer.output
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(PROMPT) + 1  # the fake adds BOS
    assert answer.usage.output_tokens == len(ANSWER)
    assert answer.usage.total_tokens == len(PROMPT) + 1 + len(ANSWER)
    assert api.prompts() == [PROMPT]


async def test_a_stream_makes_the_same_response(api: Api) -> None:
    events = streamed(await respond(api, stream=True, max_output_tokens=4))
    kinds = [event.type for event in events]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert "".join(event.delta for event in events[4:8]) == events[8].text == "Hola"
    last = events[-1].response
    assert last.incomplete_details.reason == "max_output_tokens"
    assert last.output[0].status == "incomplete"
    assert events[0].response.id == last.id
    stored = whole(await api.http.get(f"/v1/responses/{last.id}"))
    assert stored == last


async def test_what_was_said_before_is_read_again(api: Api) -> None:
    first = whole(await respond(api, "Uno", instructions="Sé breve."))
    second = whole(await respond(api, "Dos", previous_response_id=first.id, instructions="Otra cosa."))
    third = whole(await respond(api, "Tres", previous_response_id=second.id))
    assert second.previous_response_id == first.id
    earlier = turn("user", "Uno") + turn("assistant", ANSWER) + turn("user", "Dos")
    assert api.prompts()[1] == turn("system", "Otra cosa.") + earlier + "<|im_start|>assistant\n"
    assert api.prompts()[2] == (
        earlier + turn("assistant", ANSWER) + turn("user", "Tres") + "<|im_start|>assistant\n"
    )
    page = await items_of(api, third.id, order="asc")
    assert [item.content[0].text for item in page.data] == ["Uno", ANSWER, "Dos", ANSWER, "Tres"]


async def test_input_items_come_in_pages_newest_first(api: Api) -> None:
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    answer = whole(await respond(api, given))
    page = await items_of(api, answer.id, limit=2)
    assert page.has_more
    assert [item.content[0].text for item in page.data] == ["4", "3"]
    rest = await items_of(api, answer.id, after=page.last_id)
    assert not rest.has_more
    assert [item.content[0].text for item in rest.data] == ["2", "1", "0"]
    wrong = await api.http.get(f"/v1/responses/{answer.id}/input_items?after=msg_no")
    assert error_of(wrong)["param"] == "after"


async def test_deleting_forgets_and_what_continues_it_says_so(api: Api) -> None:
    first = whole(await respond(api))
    second = whole(await respond(api, previous_response_id=first.id))
    gone = await api.http.delete(f"/v1/responses/{first.id}")
    assert gone.json() == {"id": first.id, "object": "response.deleted", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        response = await api.http.request(method, f"/v1/responses/{first.id}{path}")
        assert response.status_code == 404
        assert error_of(response)["message"] == f"Response with id '{first.id}' not found."
    for name in (first.id, second.id):
        error = error_of(await respond(api, previous_response_id=name))
        assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        assert first.id in error["message"]


async def test_adapters_and_blends_answer_by_name(api: Api, tmp_path: Path) -> None:
    lora = random_lora(tmp_path / "tiny.gguf", tmp_path / "tono.gguf", seed=1)
    await api.post("/v1/load_lora_adapter", lora_name="tono", lora_path=str(lora), base_model_name="tiny")
    first = whole(await respond(api, model="tiny+tono"))
    second = whole(await respond(api, model="tiny+tono*0.5", previous_response_id=first.id))
    assert (first.model, second.model) == ("tiny+tono", "tiny+tono*0.5")
    assert [[use.weight for use in message.adapters] for message in asked(api)] == [[1.0], [0.5]]


async def test_what_is_not_to_be_stored_is_not(api: Api) -> None:
    answer = whole(await respond(api, store=False))
    assert (await api.http.get(f"/v1/responses/{answer.id}")).status_code == 404
    assert api.services.registry.db.rows("SELECT * FROM items") == []


async def test_items_of_all_kinds_become_messages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, THOUGHT_AND_CALLS)
    given = [
        {"role": "system", "content": "Sistema"},
        {"role": "developer", "content": [{"type": "input_text", "text": "Desarrollo"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hola"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "¿?"}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Miro"}]},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "Vigo"}'},
        {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "sol"}]},
        {"type": "function_call_output", "call_id": "a", "output": "lluvia"},
        {"role": "assistant", "content": "Llueve"},
        {"role": "user", "content": "Gracias"},
    ]
    whole(await respond(api, given, instructions="Órdenes", tools=[WEATHER]))
    calls = [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Vigo"}}},
        {"id": "b", "type": "function", "function": {"name": "weather", "arguments": {}}},
    ]
    assert script.asks[0].messages == [
        {"role": "system", "content": "Órdenes\n\nSistema\n\nDesarrollo"},
        {"role": "user", "content": "Hola"},
        {"role": "assistant", "reasoning_content": "¿?", "content": "Miro", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "name": "weather", "content": "sol"},
        {"role": "tool", "tool_call_id": "a", "name": "weather", "content": "lluvia"},
        {"role": "assistant", "content": "Llueve"},
        {"role": "user", "content": "Gracias"},
    ]


async def test_items_may_be_referred_to(api: Api) -> None:
    first = whole(await respond(api, "Uno"))
    reference = {"type": "item_reference", "id": first.output[0].id}
    whole(await respond(api, [reference, {"role": "user", "content": "Dos"}]))
    assert api.prompts()[1] == turn("assistant", ANSWER) + turn("user", "Dos") + "<|im_start|>assistant\n"
    error = error_of(await respond(api, [{"type": "item_reference", "id": "msg_none"}]))
    assert error["param"] == "input[0].id"


async def test_logprobs_come_if_included(api: Api) -> None:
    answer: Any = whole(await respond(api, include=["message.output_text.logprobs"], top_logprobs=2))
    [message] = answer.output
    [part] = message.content
    assert [item.token for item in part.logprobs] == list(ANSWER)
    assert [top.token for top in part.logprobs[0].top_logprobs] == ["H", "I"]
    events = streamed(await respond(api, include=["message.output_text.logprobs"], stream=True))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [delta.logprobs[0].token for delta in deltas] == list(ANSWER)
    assert asked(api)[0].logprobs == 2
    assert asked(api)[1].logprobs == 0


async def test_old_turns_are_dropped_only_if_that_is_wanted(api: Api) -> None:
    name = None
    for number in range(4):
        name = whole(await respond(api, f"{number}" * 30, previous_response_id=name, truncation="auto")).id
    error = error_of(await respond(api, "x", previous_response_id=name))
    assert error["code"] == "context_length_exceeded"
    more: dict[str, Any] = {"previous_response_id": name, "instructions": "Sé breve."}
    answer = whole(await respond(api, "fin", truncation="auto", max_output_tokens=20, **more))
    assert answer.truncation == "auto"
    prompt = api.prompts()[-1]
    assert prompt.startswith(turn("system", "Sé breve."))
    assert "0" * 30 not in prompt
    assert "fin" in prompt
    assert len(prompt) + 1 + 20 <= 256
    assert (
        len(prompt) + 1 + 20 + len(turn("user", "1" * 30) + turn("assistant", ANSWER)) > 256
    )  # no more than needed
    error = error_of(await respond(api, "y" * 300, truncation="auto"))
    assert error["code"] == "context_length_exceeded"


async def test_input_tokens_are_those_of_the_answer(api: Api) -> None:
    first = whole(await respond(api, "Uno"))
    more: dict[str, Any] = {"input": "Dos", "previous_response_id": first.id, "instructions": "Sé breve."}
    counted = await api.post("/v1/responses/input_tokens", model="tiny", **more)
    count = InputTokenCountResponse.model_validate_json(counted.text, strict=True)
    answer = whole(await respond(api, **more, text="Dos"))
    assert answer.usage is not None
    assert count.input_tokens == answer.usage.input_tokens


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0].type"),
        (
            {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "no"}]},
            "input[0].arguments",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "none", "output": "x"}]}, "input"),
        ({"input": [{"type": "reasoning", "encrypted_content": "%"}]}, "input[0].encrypted_content"),
        ({"input": [{"type": "reasoning", "encrypted_content": "é"}]}, "input[0].encrypted_content"),
        (
            {
                "input": [
                    {
                        "role": "user",
                        "content": [{"type": "input_image", "image_url": "data:image/png;base64,é"}],
                    }
                ]
            },
            "input[0].content[0].image_url",
        ),
        ({"model": "none"}, "model"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{}]}}, "tool_choice.tools[0]"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
        ({"include": ["everything"]}, "include"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
        ({"conversation": "conv_none"}, "conversation"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"n": 2}, "n"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, more: dict[str, Any], param: str) -> None:
    response = await api.post("/v1/responses", **{"model": "tiny", "input": "x", **more})
    assert response.status_code in {400, 404}
    error = error_of(response)
    assert error["param"].split(".")[0].startswith(param.split(".", maxsplit=1)[0])
    assert error["param"] == param or param == "metadata"
    assert api.engines.opened == []
