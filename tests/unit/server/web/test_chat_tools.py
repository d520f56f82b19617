"""Tools over `/v1/chat/completions`, with engines that answer as real models write."""

from __future__ import annotations

import json

from tests.api import Api, error_of, events
from tests.unit.server.web.speaking import LIMA, QUITO, TEMPLATE, TOOLS, ask, sent, taken


async def test_a_call_is_told_in_openais_shape(tools_api: Api) -> None:
    choice = await ask(tools_api, f"Let me see.\n\n{LIMA}\n{QUITO}", tools=TOOLS)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"] * 2
    assert [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls] == [
        "Lima",
        "Quito",
    ]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert "get_time" in sent(tools_api).prompt
    assert taken(tools_api, f"Hm.\n{LIMA}\n{QUITO}")
    assert taken(tools_api, "Hola.")
    assert not taken(tools_api, LIMA.replace("city", "town"))


async def test_only_calls_have_no_content(tools_api: Api) -> None:
    choice = await ask(tools_api, LIMA, tools=TOOLS)
    assert choice.message.content is None
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Lima"}'


async def test_a_chunk_of_a_call_is_as_openais_client_accumulates_it(tools_api: Api) -> None:
    tools_api.engines.answer = lambda message: LIMA
    *chunks, _ = events(await tools_api.chat(model="qwen3", tools=TOOLS, stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    [begun] = deltas[1]["tool_calls"]
    assert begun.pop("id").startswith("call_")
    assert begun == {"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert deltas[2] == {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}
    assert deltas[-1] == {}
    assert len(deltas) == 2 + len('{"city": "Lima"}') + 1  # nothing is held back that need not be


async def test_the_choice_among_tools(tools_api: Api) -> None:
    await ask(tools_api, "Hola", tools=TOOLS, tool_choice="none")
    assert sent(tools_api).grammar is None
    assert "get_weather" not in sent(tools_api).prompt

    await ask(tools_api, LIMA, tools=TOOLS, tool_choice="required")
    assert taken(tools_api, f"{LIMA}\n{QUITO}")
    assert not taken(tools_api, "Hola")

    await ask(tools_api, LIMA, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert taken(tools_api, LIMA)
    assert not taken(tools_api, f"{LIMA}\n{QUITO}")

    named = {"type": "function", "function": {"name": "get_weather"}}
    await ask(tools_api, LIMA, tools=TOOLS, tool_choice=named)
    time = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    assert taken(tools_api, LIMA)
    assert not taken(tools_api, time)
    assert not taken(tools_api, f"{LIMA}\n{QUITO}")  # who names a tool wants one call

    some = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    await ask(tools_api, LIMA, tools=TOOLS, tool_choice=some)
    assert taken(tools_api, "Hola")
    assert not taken(tools_api, time)
    assert "get_time" in sent(tools_api).prompt


async def test_a_whole_conversation_with_results(tools_api: Api) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Lima"}'},
    }
    messages = [
        {"role": "user", "content": "Weather in Lima?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "I look."},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "cloudy"}]},
    ]
    for model in TEMPLATE:
        answer = "</think>Cloudy." if model == "qwen35" else "Cloudy."
        choice = await ask(tools_api, answer, model=model, messages=messages, tools=TOOLS)
        assert choice.message.content == "Cloudy."
        prompt = sent(tools_api).prompt
        assert isinstance(prompt, str)
        assert prompt.index("Weather in Lima?") < prompt.rindex("get_weather") < prompt.rindex("cloudy")
        assert ("I look." in prompt) == (model in {"qwen3", "qwen35", "oss"})


async def test_arguments_nested_without_end_are_refused_by_their_place(tools_api: Api) -> None:
    """Whatever renders or guards them goes down into them."""
    deep = '{"a":' * 900 + "1" + "}" * 900
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": deep}}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]
    refused = await tools_api.chat(model="qwen3", messages=messages)
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "messages[1].tool_calls[0].function.arguments"
    items = [messages[0], {"type": "function_call", "call_id": "c", "name": "f", "arguments": deep}]
    refused = await tools_api.post("/v1/responses", model="qwen3", input=items)
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "input[1].arguments"


async def test_legacy_functions(tools_api: Api) -> None:
    functions = [tool["function"] for tool in TOOLS]
    choice = await ask(tools_api, LIMA, functions=functions, function_call={"name": "get_weather"})
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "get_weather"
    assert choice.message.function_call.arguments == '{"city": "Lima"}'
    assert choice.message.tool_calls is None
    assert not taken(tools_api, f"{LIMA}\n{QUITO}")
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "function_call": {"name": "get_time", "arguments": "{}"}},
        {"role": "function", "name": "get_time", "content": "five"},
    ]
    await ask(tools_api, "Five.", messages=messages, functions=functions)
    assert "five" in str(sent(tools_api).prompt)


async def test_a_model_without_tools_of_its_own_gets_the_generic_dialect(tools_api: Api) -> None:
    text = '[{"name": "get_weather", "arguments": {"city": "Lima"}}]'
    choice = await ask(tools_api, text, model="gemma", tools=TOOLS)
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert "get_time" in str(sent(tools_api).prompt)
    choice = await ask(tools_api, '{"a": 1}', model="gemma", tools=TOOLS)
    assert choice.message.content == '{"a": 1}'


async def test_n_choices_call_each_for_itself(tools_api: Api) -> None:
    tools_api.engines.answer = lambda message: QUITO if (message.sampling.seed or 0) % 2 else LIMA
    response = await tools_api.chat(model="qwen3", tools=TOOLS, n=2, seed=2)
    found = [
        choice["message"]["tool_calls"][0]["function"]["arguments"] for choice in response.json()["choices"]
    ]
    assert [json.loads(one)["city"] for one in found] == ["Lima", "Quito"]


async def test_an_answer_that_is_cut_off_in_a_call_says_length(tools_api: Api) -> None:
    tools_api.engines.answer = lambda message: LIMA
    response = await tools_api.chat(model="qwen3", tools=TOOLS, max_tokens=len(LIMA) - 20)
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"].startswith('{"city"')
