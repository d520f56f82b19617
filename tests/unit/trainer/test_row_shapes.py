"""Every shape of row that people bring: what it becomes, and what is said about a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llamaleon_trainer.rows import Dataset, check_template, read_dataset

ASKED = {"role": "user", "content": "¿Qué tal?"}
ANSWERED = {"role": "assistant", "content": "Ñandú, 5 €"}
ASIDE = {**ANSWERED, "weight": 0}


def read(tmp_path: Path, *rows: Any, text_template: str | None = None) -> Dataset:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return read_dataset(path, text_template=text_template)


def human(text: str = "¿Qué tal?") -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str = "Ñandú, 5 €", **more: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text, **more}


def parts(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


CONVERSATIONS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("sharegpt", {"conversations": [human(), gpt()]}, [ASKED, ANSWERED]),
    ("sharegpt", {"conversation": [human(), gpt()]}, [ASKED, ANSWERED]),
    (
        "sharegpt",
        {"conversations": [human(), gpt(weight=0), human("otra"), gpt("fin")], "system": "Sé breve."},
        [
            {"role": "system", "content": "Sé breve."},
            ASKED,
            {**ANSWERED, "weight": 0},
            {"role": "user", "content": "otra"},
            {"role": "assistant", "content": "fin"},
        ],
    ),
    ("sharegpt", {"conversations": [{"from": "system", "value": "S"}, human(), gpt()], "system": "no"}, []),
    ("sharegpt", {"conversations": [ASKED, ANSWERED]}, [ASKED, ANSWERED]),
    ("vertex", {"input_text": "¿Qué tal?", "output_text": "Ñandú, 5 €"}, [ASKED, ANSWERED]),
    (
        "vertex",
        {
            "messages": [
                {"author": "user", "content": "¿Qué tal?"},
                {"author": "model", "content": "Ñandú, 5 €"},
            ]
        },
        [ASKED, ANSWERED],
    ),
    (
        "vertex",
        {"context": "S", "messages": [{"author": "user", "content": "a"}, {"author": "bot", "content": "b"}]},
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ],
    ),
    (
        "gemini",
        {
            "systemInstruction": parts("system", "S"),
            "contents": [parts("user", "¿Qué ", "tal?"), parts("model", "Ñandú, 5 €")],
        },
        [{"role": "system", "content": "S"}, ASKED, ANSWERED],
    ),
    (
        "alpaca",
        {"instruction": "¿Qué tal?", "context": "", "response": "Ñandú, 5 €", "category": "qa"},
        [ASKED, ANSWERED],
    ),
    (
        "alpaca",
        {"instruction": "otra", "output": "fin", "system": "S", "history": [["¿Qué tal?", "Ñandú, 5 €"]]},
        [
            {"role": "system", "content": "S"},
            ASKED,
            ANSWERED,
            {"role": "user", "content": "otra"},
            {"role": "assistant", "content": "fin"},
        ],
    ),
]


@pytest.mark.parametrize(("shape", "row", "messages"), CONVERSATIONS)
def test_conversations_become_messages(
    tmp_path: Path, shape: str, row: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    dataset = read(tmp_path, row)
    assert (dataset.problems, dataset.shape) == ([], shape)
    found = dataset.rows[0].messages
    if messages:
        assert found == messages
    else:  # the conversation's own system prompt stays the only one
        assert found is not None
        assert [one["content"] for one in found if one["role"] == "system"] == ["S"]


def test_sharegpt_calls_tools(tmp_path: Path) -> None:
    tools = [{"name": "hora", "description": "", "parameters": {}}]
    row = {
        "conversations": [
            human("¿Qué hora es?"),
            {"from": "function_call", "value": '{"name": "hora", "arguments": {"zona": "Madrid"}}'},
            {"from": "observation", "value": "10:00"},
            gpt("Las diez."),
        ],
        "tools": json.dumps(tools),
    }
    dataset = read(tmp_path, row)
    assert dataset.problems == []
    messages = dataset.rows[0].messages
    assert messages is not None
    [call] = messages[1]["tool_calls"]
    assert call["function"] == {"name": "hora", "arguments": {"zona": "Madrid"}}
    assert (call["id"], call["type"], messages[2]["role"]) == ("call_0", "function", "tool")
    assert dataset.rows[0].tools == tools


BAD: list[tuple[dict[str, Any], str]] = [
    ({"conversations": []}, "`conversations` is empty"),
    ({"conversations": [human()]}, "`conversations` has no assistant message"),
    (
        {"conversations": [human(), {"from": "yo", "value": "a"}]},
        '`conversations[1].from` is "yo"; expected one of',
    ),
    ({"conversations": [human(), {"value": "a"}]}, "`conversations[1].from` is missing"),
    ({"conversations": [human(), gpt("")]}, "`conversations[1].value` is empty"),
    ({"conversations": [human(), {"from": "gpt"}]}, "`conversations[1].value` is missing"),
    ({"conversations": [{"from": "human", "value": "a", "weight": 1}, gpt()]}, "`conversations[0].weight`"),
    (
        {"conversations": [human(), {"from": "function_call", "value": "hora()"}]},
        "`conversations[1].value` must be a function call as JSON",
    ),
    (
        {"conversations": [human(), {"from": "function_call", "value": '{"arguments": {}}'}]},
        '`conversations[1].value` must be {"name": ..., "arguments": ...} as JSON',
    ),
    ({"input_text": "a"}, "`output_text` is missing"),
    ({"output_text": "a", "input_text": " "}, "`input_text` is empty"),
    (
        {"messages": [{"author": "yo", "content": "a"}]},
        '`messages[0].author` is "yo"; expected one of user, model',
    ),
    ({"messages": [{"author": "user", "content": "a"}]}, "`messages` has no assistant message"),
    (
        {
            "messages": [{"author": "user", "content": "a"}, {"author": "model", "content": "b"}],
            "examples": [1],
        },
        "`examples` cannot be learnt from",
    ),
    ({"contents": []}, "`contents` must be a list of turns"),
    ({"contents": [{"role": "user"}]}, "`contents[0]` must be an object with a list of `parts`"),
    ({"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]}, "`contents[0].parts[0]` must be"),
    ({"contents": [parts("yo", "a")]}, "`contents[0].role` must be user or model, not 'yo'"),
    ({"contents": [parts("user", "a")]}, "`contents` has no assistant message"),
    ({"contents": [parts("user", " ")]}, "`contents[0].parts` has no text"),
    ({"instruction": "a", "output": "b", "history": [["a"]]}, "`history` must be a list of pairs"),
    ({"messages": [ASKED, {**ANSWERED, "tool_calls": [{"id": "1"}]}]}, "`messages[1].tool_calls[0]` must be"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_rows_are_named_with_their_line(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    dataset = read(tmp_path, row)
    assert dataset.rows == []
    assert dataset.problems[0].line == 1
    assert dataset.problems[0].reason.startswith(reason)


def test_a_row_of_another_shape_is_named(tmp_path: Path) -> None:
    dataset = read(tmp_path, {"input_text": "a", "output_text": "b"}, {"conversations": [human(), gpt()]})
    assert dataset.problems == [
        (2, "a sharegpt row in a file whose first row is vertex; use one shape per file")
    ]


class TestTemplates:
    ROW: ClassVar[dict[str, Any]] = {
        "pregunta": "¿Qué tal?",
        "respuesta": "5 €",
        "nota": None,
        "datos": {"a": [1, "ñ"]},
    }

    def test_columns_are_filled_in(self, tmp_path: Path) -> None:
        template = "P: {pregunta}\nR: {respuesta}{nota} {{{datos}}}"
        dataset = read(tmp_path, self.ROW, text_template=template)
        assert (dataset.problems, dataset.shape) == ([], "text")
        assert dataset.rows[0].text == 'P: ¿Qué tal?\nR: 5 € {{"a": [1, "ñ"]}}'

    def test_it_goes_before_every_shape(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, {"prompt": "a", "completion": "b"}, text_template="{completion}/{prompt}")
        assert [(row.text, row.prompt) for row in dataset.rows] == [("b/a", None)]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"pregunta": "a"}, "`respuesta` of the text template is missing; its columns are `pregunta`"),
            ({"pregunta": "", "respuesta": None}, "`pregunta`, `respuesta`: all empty"),
            (["a"], "a row must be a JSON object, not a list"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, row: Any, reason: str) -> None:
        dataset = read(tmp_path, self.ROW, row, text_template="{pregunta} {respuesta}")
        assert dataset.problems == [(2, reason)]

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ("sin columnas", "names none"),
            ("{}", "{} in the text template is no {column}"),
            ("{a!r}", "{a!r} in the text template is no {column}"),
            ("{a:>3}", "{a:>3} in the text template"),
            ('{"a": {b}}', "in the text template"),
            ("{a", "not well formed"),
            ("a}", "not well formed"),
        ],
    )
    def test_what_is_no_template(self, template: str, reason: str) -> None:
        with pytest.raises(ValueError) as refused:
            check_template(template)
        assert reason in str(refused.value)

    def test_its_columns_in_order(self) -> None:
        assert check_template("{b} {{x}} {a} {b} {con espacio}") == ["b", "a", "con espacio"]
