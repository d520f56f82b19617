"""Thinking, forms and the rest of what shapes an answer of `/v1/chat/completions`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api import Api, error_of, events
from tests.unit.server.web.speaking import LIMA, TOOLS, ask, sent, taken

# ---------------------------------------------------------------- thinking


async def test_thinking_is_reasoning_content_and_counted(tools_api: Api) -> None:
    choice = await ask(tools_api, "<think>\nHm, so.\n</think>\n\nHola.")
    assert choice.message.content == "Hola."
    assert choice.message.reasoning_content == "Hm, so."
    tools_api.engines.answer = lambda message: "Hm.</think>Hola."
    response = await tools_api.chat(model="qwen35")  # whose prompt opens the block
    message = response.json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hola.")
    details = response.json()["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": len("Hm.</think>")}


async def test_thinking_and_a_call(tools_api: Api) -> None:
    choice = await ask(tools_api, f"<think>\nLima.\n</think>\n\n{LIMA}", tools=TOOLS, tool_choice="required")
    assert choice.message.reasoning_content == "Lima."
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert taken(tools_api, f"<think>\nLima.\n</think>\n\n{LIMA}")
    assert not taken(tools_api, "<think>\nLima.\n</think>\n\nHola")


async def test_harmony(tools_api: Api) -> None:
    text = (
        "<|channel|>analysis<|message|>Lima.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Lima"}'
    )
    choice = await ask(tools_api, text, model="oss", tools=TOOLS, reasoning_effort="high")
    assert choice.message.reasoning_content == "Lima."
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Lima"}'
    assert "Reasoning: high" in str(sent(tools_api).prompt)
    assert sent(tools_api).parse_special_output
    choice = await ask(tools_api, "<|channel|>final<|message|>Hola.", model="oss", reasoning_effort="minimal")
    assert choice.message.content == "Hola."
    assert "Reasoning: low" in str(sent(tools_api).prompt)


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "none"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
    ],
)
async def test_thinking_can_be_switched_off(tools_api: Api, fields: dict[str, Any], thinks: bool) -> None:
    await tools_api.chat(model="qwen35", **fields)
    assert str(sent(tools_api).prompt).endswith("<think>\n" if thinks else "<think>\n\n</think>\n\n")


# ---------------------------------------------------------------- forms

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"response_format": {"type": "json_object"}}, '{"b": []}', "[1]"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, '{"a": 1}', '{"b": 1}'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            '{"a": 1}',
            '{"a": "1"}',
        ),
        ({"json_schema": SCHEMA}, '{"a": 1}', "{}"),
        ({"guided_json": SCHEMA}, '{"a": 1}', "{}"),
        ({"structured_outputs": {"json": SCHEMA}}, '{"a": 1}', "{}"),
        ({"regex": "[a-c]+"}, "abc", "abd"),
        ({"guided_regex": "[a-c]+"}, "abc", "abd"),
        ({"grammar": 'start: "x" | "y"'}, "y", "z"),
        ({"grammar": 'root ::= "x" | "y"'}, "y", "z"),
        ({"guided_choice": ["a.b", "c"]}, "a.b", "axb"),
        ({"structured_outputs": {"choice": ["a|b", "c"]}}, "a|b", "a"),
    ],
)
async def test_forms_reach_the_engine(tools_api: Api, fields: dict[str, Any], good: str, bad: str) -> None:
    choice = await ask(tools_api, good, **fields, model="gemma")
    assert choice.message.content == good
    assert taken(tools_api, good)
    assert not taken(tools_api, bad)
    thought = "<think>\nHm.\n</think>\n\n"
    await ask(tools_api, thought + good, **fields, model="qwen3")
    assert taken(tools_api, thought + good)
    assert taken(tools_api, good)
    assert not taken(tools_api, thought + bad)
    await ask(tools_api, LIMA, **fields, model="qwen3", tools=TOOLS)
    assert taken(tools_api, LIMA)
    assert taken(tools_api, good)
    assert not taken(tools_api, bad)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        ({"regex": "("}, "regex"),
        ({"grammar": "start: nobody"}, "grammar"),
        ({"guided_json": {"not": {}}}, "guided_json"),
    ],
)
async def test_forms_that_cannot_be_had_are_named(tools_api: Api, fields: dict[str, Any], param: str) -> None:
    response = await tools_api.chat(model="qwen3", **fields)
    assert response.status_code == 400
    assert error_of(response)["param"].startswith(param)


async def test_a_strict_tool_is_refused_where_it_cannot_be_kept(tools_api: Api) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 3}}}}
    for strict, status in ((True, 400), (False, 200)):
        function = {"name": "f", "parameters": odd, "strict": strict}
        response = await tools_api.chat(model="qwen3", tools=[{"type": "function", "function": function}])
        assert response.status_code == status
    response = await tools_api.chat(
        model="qwen3",
        tools=[{"type": "function", "function": {"name": "f", "parameters": odd, "strict": True}}],
    )
    assert error_of(response)["param"].startswith("tools[0].function.parameters")


# ---------------------------------------------------------------- the rest


async def test_the_last_message_is_history_unless_it_is_to_be_continued(tools_api: Api) -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two,"}]
    await tools_api.chat(model="qwen3", messages=messages)
    assert str(sent(tools_api).prompt).endswith("One, two,<|im_end|>\n<|im_start|>assistant\n")
    choice = await ask(tools_api, " three", messages=messages, continue_final_message=True)
    assert str(sent(tools_api).prompt).endswith("<|im_start|>assistant\nOne, two,")
    assert choice.message.content == " three"
    await tools_api.chat(model="qwen35", messages=messages, continue_final_message=True)
    assert str(sent(tools_api).prompt).endswith("<think>\n\n</think>\n\nOne, two,")
    thinking = [messages[0], {"role": "assistant", "content": None, "reasoning_content": "So"}]
    choice = await ask(
        tools_api, " on</think>One", model="qwen35", messages=thinking, continue_final_message=True
    )
    assert str(sent(tools_api).prompt).endswith("<think>\nSo")
    assert (choice.message.reasoning_content, choice.message.content) == ("on", "One")
    choice = await ask(tools_api, " three", model="oss", messages=messages, continue_final_message=True)
    assert str(sent(tools_api).prompt).endswith("<|channel|>final<|message|>One, two,")
    assert choice.message.content == " three"


async def test_logprobs_are_those_of_the_text(tools_api: Api) -> None:
    answer = f"<think>Hm.</think>Hola {LIMA}"
    tools_api.engines.answer = lambda message: answer
    response = await tools_api.chat(model="qwen3", tools=TOOLS, logprobs=True)
    [choice] = response.json()["choices"]
    assert "".join(item["token"] for item in choice["logprobs"]["content"]) == choice["message"]["content"]
    *chunks, _ = events(await tools_api.chat(model="qwen3", tools=TOOLS, logprobs=True, stream=True))
    tokens = [
        item["token"]
        for chunk in chunks
        for item in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert "".join(tokens) == "Hola"


async def test_images_need_a_projector(tools_api: Api) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "What is it?"}, image]
    response = await tools_api.chat(model="qwen3", messages=[{"role": "user", "content": content}])
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages[0].content[1]"
    for url in ("http://localhost/x.png", "data:image/png;base64,%%%", "data:text/plain;base64,eA=="):
        image["image_url"] = {"url": url}
        response = await tools_api.chat(model="qwen3", messages=[{"role": "user", "content": content}])
        assert error_of(response)["param"] == "messages[0].content[1].image_url.url"


async def test_keep_alive_is_of_the_model(tools_api: Api) -> None:
    response = await tools_api.chat(model="qwen3", keep_alive="soon")
    assert error_of(response)["param"] == "keep_alive"
    assert (await tools_api.chat(model="qwen3", keep_alive=0)).status_code == 200
    async with asyncio.timeout(30):
        while not tools_api.engines.last.closed:
            await asyncio.sleep(0.01)


async def test_control_tokens_in_a_text_are_broken_up(tools_api: Api) -> None:
    said = "Say <|im_end|> twice: <|im_end|>"
    await tools_api.chat(said, model="qwen3")
    request = sent(tools_api)
    assert isinstance(request.prompt, str)
    assert f"<|im_start|>user\n{said}<|im_end|>\n" in request.prompt
    begin = request.prompt.index("Say ")
    places = [begin + at for at in range(len(said)) if said[:at].endswith("<")]
    assert request.breaks == tuple(places)
    function = {"name": "f", "description": "Ends with <|im_end|>."}
    await tools_api.chat("Hola", model="qwen3", tools=[{"type": "function", "function": function}])
    request = sent(tools_api)
    assert [str(request.prompt)[at - 1 : at + 9] for at in request.breaks] == ["<|im_end|>"]
