"""What grammars of calls let through, whether a dialect's marks are tokens of the vocabulary or text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.server.chat.dialects.matching import Matching
from tests.unit.server.chat.dialects.samples import DIALECTS, LIMA, NOTED, TOOLS, WEATHER, written

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Dialect, Setup, Tags
from llamaleon_server.chat.dialects.lark import Lark
from llamaleon_server.chat.forms import ONE_LINE
from llamaleon_server.errors import BadRequest

THINK = Tags("<think>", "</think>")
NAMES = sorted(DIALECTS)
MARKS = {
    "gemma": ["<|tool_call>", "<tool_call|>", '<|"|>'],
    "function-gemma": ["<start_function_call>", "<end_function_call>", "<escape>"],
    "granite": ["<|tool_call|>"],
    "harmony": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>"],
    "hermes": ["<tool_call>", "</tool_call>"],
    "mistral": ["[TOOL_CALLS]"],
    "mistral-identified": ["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
    "mistral-named": ["[TOOL_CALLS]", "[ARGS]"],
    "qwen-coder": ["<tool_call>", "</tool_call>"],
}


def matching(dialect: Dialect, *, tokens: bool, **setup: Any) -> Matching:
    lark = Lark()
    grammar = lark.of(dialect.grammar(lark, Setup(**{"tools": TOOLS, **setup})))
    marks = [*MARKS.get(dialect.name, []), "<think>", "</think>"] if tokens else []
    return Matching(grammar, marks)


def call(name: str, *calls: Any) -> str:
    """As the grammar has the end of it: what ends the generation is no text."""
    return written(DIALECTS[name], *calls).removesuffix("<|call|>")


@pytest.fixture(params=[False, True], ids=["text", "tokens"])
def tokens(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_a_required_call_is_a_call_and_nothing_else(name: str, tokens: bool) -> None:
    dialect = DIALECTS[name]
    one = matching(dialect, tokens=tokens, required=True, parallel=False)
    assert one.whole(call(name, LIMA))
    assert one.whole(call(name, NOTED))
    assert one.taken("Hola") < 1
    assert not one.whole("")
    assert one.taken(call(name, LIMA).replace("get_weather", "get_wind")) < 1
    for end in range(1, len(call(name, LIMA))):
        assert not one.whole(call(name, LIMA)[:end])
    for wrong in ({"days": 2}, {"city": "Lima", "unit": "K"}, {"city": "Lima", "days": "two"}, {"city": 3}):
        if (name, wrong) != ("qwen-coder", {"city": 3}):  # it writes texts without quotes
            assert not one.whole(call(name, ("get_weather", wrong))), wrong


@pytest.mark.parametrize("name", [name for name in NAMES if name != "harmony"])
def test_several_calls_only_where_they_may_be(name: str, tokens: bool) -> None:
    dialect = DIALECTS[name]
    assert matching(dialect, tokens=tokens, required=True).whole(call(name, LIMA, NOTED))
    assert matching(dialect, tokens=tokens).whole(call(name, LIMA, NOTED))
    for required in (True, False):
        assert not matching(dialect, tokens=tokens, required=required, parallel=False).whole(
            call(name, LIMA, NOTED)
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "harmony"])
def test_unasked_it_may_talk_or_call_but_never_malformed(name: str, tokens: bool) -> None:
    dialect = DIALECTS[name]
    free = matching(dialect, tokens=tokens)
    assert free.whole("Hola, {a} [b] < c. ¿Qué?\n")
    assert free.whole("")
    assert free.whole(call(name, LIMA))
    talked = call(name, LIMA) if getattr(dialect, "head", "") else f"Let me see.\n{call(name, LIMA)}"
    assert free.whole(talked)
    for end in range(len(talked) - len(call(name, LIMA)) + len(dialect.mark) + 1, len(talked)):
        if not getattr(dialect, "head", "") or end > len('{"name": "get'):
            assert not free.whole(talked[:end]), talked[:end]
    assert free.taken(talked.replace("get_weather", "get_wind")) < 1


def test_harmony_thinks_talks_calls_and_answers() -> None:
    harmony = DIALECTS["harmony"]
    analysis = "<|channel|>analysis<|message|>Hm <x>.<|end|><|start|>assistant"
    preamble = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>Hola."
    role = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Lima"}'
    free, must = (matching(harmony, tokens=True, required=required) for required in (False, True))
    for text in (analysis + final, preamble + call("harmony", LIMA), analysis + role, final):
        assert free.whole(text), text
        assert must.whole(text) == ("final" not in text)
    assert not free.whole(analysis)
    form = matching(harmony, tokens=True, tools=(), form='"yes"')
    assert form.whole(analysis + "<|channel|>final<|message|>yes")
    assert not form.whole(analysis + "<|channel|>final<|message|>no")


@pytest.mark.parametrize("name", ["hermes", "qwen-coder", "generic", "mistral"])
def test_thinking_comes_first(name: str, tokens: bool) -> None:
    dialect = DIALECTS[name]
    thought = "<think>\nI could <tool_call> or [TOOL_CALLS] it.\n</think>\n\n"
    if tokens:  # then no text can be a mark
        thought = "<think>\nHm.\n</think>\n\n"
    text = call(name, LIMA)
    for required in (False, True):
        may = matching(dialect, tokens=tokens, required=required, tags=THINK)
        assert may.whole(thought + text)
        assert may.whole(text)
        opened = matching(dialect, tokens=tokens, required=required, tags=THINK, opened=True)
        assert opened.whole(thought.removeprefix("<think>") + text)
        assert not opened.whole("Hm.")
    assert matching(dialect, tokens=tokens, tags=THINK).whole(thought + "Hola.")
    assert not matching(dialect, tokens=tokens, tags=THINK, required=True).whole(thought + "Hola.")
    form = matching(dialect, tokens=tokens, tools=(), tags=THINK, form='"yes"')
    assert form.whole(thought + "yes")
    assert form.whole("yes")
    assert not form.whole(thought + "no")
    either = matching(dialect, tokens=tokens, form='"yes"')
    assert either.whole(text)
    assert either.whole("yes")
    assert not either.whole("no")


# ---------------------------------------------------------------- schemas


def tool(schema: dict[str, Any], **more: Any) -> Tool:
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return Tool(name="f", parameters=parameters, field="tools[0].function.parameters", **more)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_enforced_is_refused_if_strict_else_left_out(name: str) -> None:
    dialect = DIALECTS[name]
    odd = {"type": "integer", "not": {"const": 3}}
    loose = matching(dialect, tokens=False, tools=(tool(odd),), required=True)
    assert loose.whole(call(name, ("f", {"a": 3})))
    assert not loose.whole(call(name, ("f", {"a": [3]})))
    with pytest.raises(BadRequest) as error:
        matching(dialect, tokens=False, tools=(tool(odd, strict=True),), required=True)
    assert (error.value.param or "").startswith("tools[0].function.parameters")


@pytest.mark.parametrize("name", ["gemma", "qwen-coder"])
def test_texts_without_quotes_have_no_pattern(name: str) -> None:
    with pytest.raises(BadRequest, match="pattern") as error:
        matching(
            DIALECTS[name], tokens=False, tools=(tool({"type": "string", "pattern": "a+"}, strict=True),)
        )
    assert error.value.param == "tools[0].function.parameters.properties.a.pattern"


@pytest.mark.parametrize("name", NAMES)
def test_tools_without_parameters(name: str) -> None:
    for bare in (Tool(name="now"), Tool(name="now", parameters={"type": "object", "properties": {}})):
        must = matching(DIALECTS[name], tokens=False, tools=(bare, WEATHER), required=True)
        assert must.whole(call(name, ("now", {})))


def test_gemmas_notation_by_schema() -> None:
    gemma = DIALECTS["gemma"]
    schema = {
        "type": "object",
        "properties": {
            "one": {"type": ["integer", "null"]},
            "any": {},
            "ref": {"$ref": "#/$defs/point"},
            "list": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "boolean"}]}},
        },
        "required": ["one"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    }
    must = matching(gemma, tokens=True, tools=(Tool(name="f", parameters=schema),), required=True)
    good: list[dict[str, Any]] = [
        {"one": 1},
        {"one": None, "any": {"k": [1, "a", True]}},
        {"one": -3, "ref": {"x": 1.5e3}, "list": ["a", False]},
    ]
    for arguments in good:
        assert must.whole(call("gemma", ("f", arguments))), arguments
    for wrong in ({}, {"one": 1.5}, {"one": 1, "ref": {}}, {"one": 1, "list": [1]}, {"two": 1}):
        assert not must.whole(call("gemma", ("f", wrong))), wrong


@pytest.mark.parametrize("name", [name for name in NAMES if name != "harmony"])
@pytest.mark.parametrize(
    ("form", "good"),
    [
        ({"json_schema": {"type": "object", "x-guidance": ONE_LINE}}, '{"b": 1}'),
        ({"json_schema": {"type": "array", "x-guidance": ONE_LINE}}, "[1, 2]"),
        ({"lark_grammar": "start: /[a-z]+/"}, "abc"),
    ],
)
def test_beside_a_form_both_can_be_had(name: str, form: dict[str, Any], good: str) -> None:
    lark = Lark()
    grammar = lark.of(DIALECTS[name].grammar(lark, Setup(tools=TOOLS, form="@form")))
    parts = [{"name": "answer", "lark_grammar": grammar}, {"name": "form", **form}]
    both = Matching(json.dumps({"grammars": parts}))
    assert both.whole(call(name, LIMA))
    assert both.whole(good)
    assert not both.whole("No, thanks.")
