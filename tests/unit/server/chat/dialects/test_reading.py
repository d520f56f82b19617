"""Answers in each dialect, read as they come: however they are cut, the same text, thinking and calls."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.chat.dialects.samples import DIALECTS, LIMA, NOTED, TOOLS, written

from llamaleon_server.chat.ask import Tool
from llamaleon_server.chat.dialects.dialect import Dialect, Setup, Tags
from llamaleon_server.chat.dialects.reading import Reading
from llamaleon_server.chat.events import Answer, Text, Thinking
from llamaleon_server.chat.prompt import whole

SETUP = Setup(tools=TOOLS)
THINK = Tags("<think>", "</think>")
ODD = '<|>[]{}"\\ntol_calTOOLCARGS/: ,=\n'
NAMES = sorted(DIALECTS)


def read(dialect: Dialect, setup: Setup, pieces: list[str]) -> Answer:
    reading, answer = Reading(), Answer()
    steps = dialect.read(reading, setup)
    for text in pieces:
        reading.add(text)
        next(steps, None)
        take(reading, answer)
    reading.end()
    assert next(steps, "over") == "over"
    take(reading, answer)
    return answer


def take(reading: Reading, answer: Answer) -> None:
    """As the server does: what was read leaves at once."""
    for piece in reading.pieces:
        answer.add(piece.event)
    reading.pieces = []


def calls(answer: Answer) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


def told(answer: Answer) -> tuple[str, str, list[tuple[str, str]]]:
    return answer.text, answer.thinking, [(call.name, call.arguments) for call in answer.calls]


def cut(text: str, places: list[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[begin:end] for begin, end in pairwise(borders)]


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read(name: str) -> None:
    dialect = DIALECTS[name]
    assert calls(whole(dialect, SETUP, written(dialect, LIMA))) == [LIMA]
    answer = whole(dialect, SETUP, written(dialect, NOTED))
    assert calls(answer) == [NOTED]
    assert answer.text == ""
    assert calls(whole(dialect, SETUP, written(dialect, LIMA, NOTED))) == [LIMA, NOTED]
    assert len({call.id for call in whole(dialect, SETUP, written(dialect, LIMA, NOTED)).calls}) == 2


@pytest.mark.parametrize("name", NAMES)
@given(places=st.lists(st.integers(0, 10_000), max_size=40), thinks=st.booleans(), talks=st.booleans())
@settings(max_examples=60, deadline=None)
def test_cuts_do_not_matter(name: str, places: list[int], thinks: bool, talks: bool) -> None:
    dialect = DIALECTS[name]
    text = written(dialect, LIMA, NOTED)
    setup = SETUP
    if thinks and name != "harmony":
        setup = Setup(tools=TOOLS, tags=THINK)
        text = f"<think>\nLima, <tool? <|x {{\n</think>\n\n{text}"
    if talks and not getattr(dialect, "head", ""):
        text = f"Let me < see [ and { {} }.\n\n{text}" if name != "harmony" else text
    expected = told(whole(dialect, setup, text))
    assert len(expected[2]) == 2
    assert told(read(dialect, setup, cut(text, places))) == expected
    assert told(read(dialect, setup, list(text))) == expected


@pytest.mark.parametrize("name", NAMES)
@given(
    text=st.text(st.sampled_from('<|>[]{}"\\ntol_calTOOLCARGS/: ,=\n')), places=st.lists(st.integers(0, 99))
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_model_writes_nothing_breaks(name: str, text: str, places: list[int]) -> None:
    dialect = DIALECTS[name]
    for body in (text, written(dialect, LIMA) + text, written(dialect, NOTED)[: len(text)] + text):
        setup = Setup(tools=TOOLS, tags=THINK)
        assert told(read(dialect, setup, cut(body, places))) == told(whole(dialect, setup, body))


@pytest.mark.parametrize("name", NAMES)
def test_a_call_of_nothing_is_no_call(name: str) -> None:
    dialect = DIALECTS[name]
    text = written(dialect, ("", {"city": "Lima"}))
    assert whole(dialect, SETUP, text).calls == []
    assert read(dialect, SETUP, list(text)).calls == []


@pytest.mark.parametrize("name", NAMES)
def test_no_markup_leaks_when_an_answer_is_cut_off(name: str) -> None:
    dialect = DIALECTS[name]
    text = written(dialect, LIMA, NOTED)
    first = dialect.mark or "<|channel|>"
    for end in range(1, len(text)):
        answer = whole(dialect, SETUP, text[:end])
        # Where JSON is read from the first character on, what is no call yet may be an answer; elsewhere only
        # the beginning of a mark may.
        if not getattr(dialect, "head", "") or answer.calls:
            assert answer.text != first
            assert first.startswith(answer.text)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "harmony"])
def test_plain_text_comes_as_it_is_and_at_once(name: str) -> None:
    dialect = DIALECTS[name]
    text = "  ¡Hola! 1 < 2, {a} [b] *c* ```x``` \n"
    assert whole(dialect, SETUP, text).text == text
    reading = Reading()
    steps = dialect.read(reading, SETUP)
    for at, character in enumerate("Hola mundo"):
        reading.add(character)
        next(steps, None)
        given_on = "".join(piece.event.text for piece in reading.pieces if isinstance(piece.event, Text))
        assert given_on in {"Hola mundo"[: at + 1], "Hola mundo"[: at + 1].rstrip()}


def test_arguments_stream_as_they_are_written() -> None:
    for name in NAMES:
        dialect = DIALECTS[name]
        reading = Reading()
        steps = dialect.read(reading, SETUP)
        text = written(dialect, ("note", {"text": "z" * 50}))
        reading.add(text[: text.index("zz") + 10])
        next(steps, None)
        so_far = Answer()
        for piece in reading.pieces:
            so_far.add(piece.event)
        assert so_far.calls[0].arguments.count("z") == 10, name


# ---------------------------------------------------------------- one by one


def test_hermes_takes_other_orders_and_arguments_in_a_string() -> None:
    hermes = DIALECTS["hermes"]
    for body in (
        '{"arguments": {"city": "Lima"}, "name": "get_weather"}',
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Lima\\"}"}',
        '{"id": 7, "name": "get_weather", "parameters": {"city": "Lima"}, "more": [1, {"a": "}"}]}',
        '{ "name":"get_weather" ,"arguments":{"city": "Lima"} }',
    ):
        answer = whole(hermes, SETUP, f"<tool_call>{body}</tool_call>")
        assert calls(answer) == [("get_weather", {"city": "Lima"})], body
    assert calls(whole(hermes, SETUP, '<tool_call>{"name": "note"}</tool_call>')) == [("note", {})]


def test_hermes_shows_what_is_no_call() -> None:
    text = "Write <tool_call> before it."
    assert whole(DIALECTS["hermes"], SETUP, text).text == text


def test_llama_takes_the_python_tag_and_leaves_other_json_alone() -> None:
    llama = DIALECTS["llama"]
    body = '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Lima"}}'
    assert calls(whole(llama, SETUP, body)) == [("get_weather", {"city": "Lima"})]
    for text in (
        '{"city": "Lima"}',
        '{"name": "Ana", "age": 3}',
        '{"name": "nobody", "parameters": {}}',
        "{",
    ):
        answer = whole(llama, SETUP, text)
        assert (answer.text, answer.calls) == (text, [])


def test_generic_takes_fenced_json() -> None:
    text = '```json\n[{"name": "get_weather", "arguments": {"city": "Lima"}}]\n```'
    answer = whole(DIALECTS["generic"], SETUP, text)
    assert calls(answer) == [("get_weather", {"city": "Lima"})]
    assert answer.text == ""


def test_mistral_ids_are_not_read() -> None:
    body = '[TOOL_CALLS][{"name": "note", "arguments": {"text": "a"}, "id": "abcDEF123"}]'
    [call] = whole(DIALECTS["mistral"], SETUP, body).calls
    assert (call.name, call.arguments) == ("note", '{"text": "a"}')
    assert call.id.startswith("call_")


def test_qwen_coder_values_have_the_types_of_the_schema() -> None:
    text = (
        "<tool_call>\n<function=note>\n<parameter=text>\n12\n</parameter>\n<parameter=tags>\n"
        '["a"]\n</parameter>\n<parameter=urgent>\nfalse\n</parameter>\n<parameter=other>\n3\n</parameter>\n'
        "</function>\n</tool_call>"
    )
    [(_, arguments)] = calls(whole(DIALECTS["qwen-coder"], SETUP, text))
    assert arguments == {"text": "12", "tags": ["a"], "urgent": False, "other": 3}


def test_gemma_arguments_become_json() -> None:
    text = (
        '<|tool_call>call:note{text:<|"|>a "b" {c}<|"|>,tags:[<|"|>x<|"|>],place:{x:1,y:-2.5},urgent:true,'
        "odd:word,none:null}<tool_call|>"
    )
    [(_, arguments)] = calls(whole(DIALECTS["gemma"], SETUP, text))
    assert arguments == {
        "text": 'a "b" {c}',
        "tags": ["x"],
        "place": {"x": 1, "y": -2.5},
        "urgent": True,
        "odd": "word",
        "none": None,
    }


HARMONY = (
    "<|channel|>analysis<|message|>Lima first.<|end|><|start|>assistant<|channel|>commentary<|message|>"
    "A moment.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json"
    '<|message|>{"city": "Lima"}<|call|>'
)


@given(places=st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=60, deadline=None)
def test_harmonys_channels(places: list[int]) -> None:
    answer = read(DIALECTS["harmony"], SETUP, cut(HARMONY, places))
    assert told(answer) == ("A moment.", "Lima first.", [("get_weather", '{"city": "Lima"}')])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>final<|message|>Hola.", ("Hola.", "", [])),
        ("<|channel|>analysis<|message|>Hm", ("", "Hm", [])),
        (
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Sí",
            ("Sí", "Hm", []),
        ),
        (
            ' to=functions.note<|channel|>commentary json<|message|>{"text": "a"}',
            ("", "", [("note", '{"text": "a"}')]),
        ),
        ("<|channel|>commentary to=browser.open<|message|>{}<|call|>", ("", "{}", [])),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", ("{}", "", [])),
        ("<|channel|>fin", ("", "", [])),
        (
            "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.",
            ("", "One.\nTwo.", []),
        ),
        ("No harmony.", ("No harmony.", "", [])),
    ],
)
def test_harmonys_messages(text: str, expected: Any) -> None:
    assert told(whole(DIALECTS["harmony"], SETUP, text)) == expected
    assert told(read(DIALECTS["harmony"], SETUP, list(text))) == expected


def test_where_nothing_may_be_called_harmony_calls_nothing() -> None:
    """`tool_choice: "none"`, or a request without tools: its client has no place for a call."""
    answer = whole(DIALECTS["harmony"], Setup(), HARMONY)
    assert told(answer) == ("A moment.", 'Lima first.\n{"city": "Lima"}', [])


ANY = Setup(tools=(Tool(name="f", parameters={"type": "object", "properties": {"a": {}}}),))
NOT_JSON = {
    "gemma": "<|tool_call>call:f{{a:{}}}<tool_call|>",
    "qwen-coder": "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>",
}


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_json_has_no_word_for_is_text(name: str, value: str) -> None:
    [call] = whole(DIALECTS[name], ANY, NOT_JSON[name].format(value)).calls
    assert call.arguments == f'{{"a": "{value}"}}'


@pytest.mark.parametrize("name", NOT_JSON)
def test_brackets_without_end_are_no_failure(name: str) -> None:
    text = NOT_JSON[name].format("[" * 20_000)
    for answer in (whole(DIALECTS[name], ANY, text), read(DIALECTS[name], ANY, [text[:500], text[500:]])):
        assert [call.name for call in answer.calls] == ["f"]


# ---------------------------------------------------------------- thinking


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nHola", False, ("Hola", "Hm.")),
        ("Hm.\n</think>\n\nHola", True, ("Hola", "Hm.")),
        ("\n<think>Hm.", False, ("", "Hm.")),
        ("Hola <think>", False, ("Hola <think>", "")),
        ("<thin", False, ("<thin", "")),
        ("Hm. </thi", True, ("", "Hm. </thi")),
    ],
)
def test_thinking_is_told_apart(text: str, opened: bool, expected: tuple[str, str]) -> None:
    setup = Setup(tags=THINK, opened=opened)
    for pieces in ([text], list(text)):
        answer = read(DIALECTS["hermes"], setup, pieces)
        assert (answer.text, answer.thinking) == expected


def test_thinking_streams() -> None:
    reading = Reading()
    steps = DIALECTS["generic"].read(reading, Setup(tags=THINK, opened=True))
    reading.add("Hm, so it")
    next(steps)
    assert [piece.event for piece in reading.pieces] == [Thinking("Hm, so it")]
