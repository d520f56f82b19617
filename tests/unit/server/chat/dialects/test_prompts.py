"""Conversations with tools, rendered by real templates: everything that was said reaches the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.server.chat.dialects.samples import TEMPLATES, TOOLS, template

from llamaleon_server.chat.dialects.dialect import Setup
from llamaleon_server.chat.prompt import manner_of, whole

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
TOOL_USE_ONLY = "tool_use"  # Hermes' are rendered with tools or not at all


def call(identity: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Weather in Lima and Quito?"}
CALLS: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [call("call_1", "get_weather", city="Lima"), call("call_2", "get_weather", city="Quito")],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "call_1", "content": "cloudy-19"},
    {"role": "tool", "tool_call_id": "call_2", "content": "rainy-14"},
]
ANSWER = {"role": "assistant", "content": "Lima 19, Quito 14."}
MORE = {"role": "user", "content": "And Cusco?"}


def render(name: str, messages: list[dict[str, Any]], **more: Any) -> str:
    source = template(name)
    return manner_of(source).render(source, messages, tools=TOOLS, **more)


@pytest.mark.parametrize("name", NAMES)
def test_everything_said_is_in_the_prompt_in_its_order(name: str) -> None:
    prompt = render(name, [SYSTEM, USER, CALLS, *RESULTS, ANSWER, MORE])
    for said in ("Be brief.", "get_weather", "note", "Where.", "How many."):
        assert said in prompt, said
    order = [prompt.rindex(said) for said in ("cloudy-19", "rainy-14", "Lima 19", "And Cusco?")]
    assert order == sorted(order)
    assert "Lima" in prompt[: order[0]]
    assert "Quito" in prompt[prompt.index("Weather in") + 40 : order[1]]


@pytest.mark.parametrize("name", NAMES)
def test_after_results_the_model_is_asked_to_go_on(name: str) -> None:
    asked = render(name, [USER, CALLS, *RESULTS])
    assert "rainy-14" in asked[-400:]
    single = render(name, [USER, {**CALLS, "tool_calls": CALLS["tool_calls"][:1]}, RESULTS[0]])
    assert "cloudy-19" in single


@pytest.mark.parametrize("name", [name for name in NAMES if TOOL_USE_ONLY not in name])
def test_without_tools_nothing_changes(name: str) -> None:
    source = template(name)
    assert manner_of(source).render(source, [SYSTEM, USER]) == source.render([SYSTEM, USER])


@pytest.mark.parametrize("name", NAMES)
def test_calls_in_the_history_are_read_back(name: str) -> None:
    source = template(name)
    manner = manner_of(source)
    one = {**CALLS, "tool_calls": CALLS["tool_calls"][:1]}
    asked = manner.render(source, [USER], tools=TOOLS)
    told = manner.render(source, [USER, one], tools=TOOLS, generation=False)
    begin = len(asked) if told.startswith(asked) else told.rindex("Quito?")
    if manner.dialect.name == "generic":
        begin = told.rindex('[{"name"')
    elif manner.dialect.mark and not told.startswith(asked):
        begin = told.rindex(manner.dialect.mark)
    setup = Setup(tools=TOOLS, tags=manner.tags, opened=manner.dialect.opens(told[:begin], manner.tags))
    [found] = whole(manner.dialect, setup, told[begin:]).calls
    assert (found.name, json.loads(found.arguments)) == ("get_weather", {"city": "Lima"})


def test_thinking_of_the_turn_is_shown_where_the_template_has_a_place() -> None:
    thought = {**CALLS, "tool_calls": CALLS["tool_calls"][:1], "reasoning_content": "I need the weather."}
    for name in ("Qwen-Qwen3-0.6B", "Qwen3.5-4B", "openai-gpt-oss-120b", "google-gemma-4-31B-it"):
        assert "I need the weather." in render(name, [USER, thought, RESULTS[0]]), name


def test_effort_and_thinking_reach_the_template() -> None:
    oss, qwen = template("openai-gpt-oss-120b"), template("Qwen-Qwen3-0.6B")
    assert "Reasoning: high" in manner_of(oss).render(oss, [USER], options={"reasoning_effort": "high"})
    silent = manner_of(qwen).render(qwen, [USER], options={"enable_thinking": False})
    assert silent.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"])
def test_gemmas_turn_is_calls_results_and_answer(name: str) -> None:
    one = {**CALLS, "tool_calls": CALLS["tool_calls"][:1], "content": "One moment."}
    result = {**RESULTS[0], "content": '{"sky": "cloudy", "degrees": 19}'}
    turn = (
        '<|turn>model\n<|tool_call>call:get_weather{city:<|"|>Lima<|"|>}<tool_call|><|tool_response>'
        'response:get_weather{degrees:19,sky:<|"|>cloudy<|"|>}<tool_response|>'
    )
    thought = "<|channel>thought\n<channel|>" if "interleaved" in name else ""
    assert render(name, [USER, one, result]).endswith(turn + thought)
    whole_turn = render(name, [USER, one, result, ANSWER], generation=False)
    assert whole_turn.endswith(f"{turn}Lima 19, Quito 14.<turn|>\n")


def test_mistrals_ids_have_nine_characters() -> None:
    prompt = render("mistralai-Mistral-Nemo-Instruct-2407", [USER, CALLS, *RESULTS])
    ids = [part[:9] for part in prompt.split('"id": "')[1:]]
    assert len(set(ids)) == 2
    for identity in ids:
        assert f'"call_id": "{identity}"' in prompt
