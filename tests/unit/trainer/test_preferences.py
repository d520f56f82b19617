"""Preference rows of every form become the better answer with the other beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamaleon_trainer.rows import DataRow, Dataset, read_dataset


def read(tmp_path: Path, *rows: Any) -> Dataset:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return read_dataset(path)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Sé amable."}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CONVERSATIONAL: list[dict[str, Any]] = [
    {"prompt": [user("¿Sí?")], "chosen": [assistant("¡Claro!")], "rejected": [assistant("No.")]},
    {"prompt": [user("¿Sí?")], "chosen": "¡Claro!", "rejected": "No."},
    {"prompt": "¿Sí?", "chosen": [assistant("¡Claro!")], "rejected": [assistant("No.")]},
    {"prompt": "¿Sí?", "chosen": assistant("¡Claro!"), "rejected": assistant("No.")},
    {  # trl's conversations as a whole
        "chosen": [user("¿Sí?"), assistant("¡Claro!")],
        "rejected": [user("¿Sí?"), assistant("No.")],
    },
    {  # and with the prompt beside them: ultrafeedback
        "prompt": "¿Sí?",
        "chosen": [user("¿Sí?"), assistant("¡Claro!")],
        "rejected": [user("¿Sí?"), assistant("No.")],
        "score_chosen": 9.0,
    },
    {
        "input": {"messages": [user("¿Sí?")]},
        "preferred_output": [assistant("¡Claro!")],
        "non_preferred_output": [assistant("No.")],
    },
    {
        "conversations": [{"from": "human", "value": "¿Sí?"}],
        "chosen": {"from": "gpt", "value": "¡Claro!"},
        "rejected": {"from": "gpt", "value": "No."},
    },
    {"question": "¿Sí?", "chosen": "¡Claro!", "rejected": "No."},
]


@pytest.mark.parametrize("row", CONVERSATIONAL)
def test_conversations(tmp_path: Path, row: dict[str, Any]) -> None:
    dataset = read(tmp_path, row)
    assert (dataset.problems, dataset.shape) == ([], "preference")
    worse = DataRow(line=1, messages=[user("¿Sí?"), assistant("No.")])
    better = DataRow(line=1, messages=[user("¿Sí?"), assistant("¡Claro!")], rejected=worse)
    assert dataset.rows == [better]


def test_raw_texts_stay_raw(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"prompt": "2+2=", "chosen": " 4", "rejected": " 5"}).rows
    assert (row.prompt, row.completion, row.messages) == ("2+2=", " 4", None)
    assert row.rejected == DataRow(line=1, prompt="2+2=", completion=" 5")


def test_a_prompt_that_both_texts_begin_with(tmp_path: Path) -> None:
    said = "Human: ¿Sí? Assistant:"
    [row] = read(tmp_path, {"chosen": f"{said} ¡Claro!", "rejected": f"{said} Claramente no."}).rows
    assert row.rejected is not None
    assert (row.prompt, row.completion, row.rejected.completion) == (said, " ¡Claro!", " Claramente no.")
    assert row.rejected.prompt == said


def test_earlier_answers_are_context_and_tools_are_for_both(tmp_path: Path) -> None:
    row = {
        "input": {
            "messages": [SYSTEM, user("a"), assistant("b"), user("c")],
            "tools": TOOLS,
            "parallel_tool_calls": True,
        },
        "preferred_output": [assistant("sí")],
        "non_preferred_output": [assistant("no")],
    }
    [found] = read(tmp_path, row).rows
    for one in (found, found.rejected):
        assert one is not None
        assert one.messages is not None
        assert one.tools == TOOLS
        assert [m.get("weight", 1) for m in one.messages if m["role"] == "assistant"] == [0, 1]
        assert one.messages[0] == SYSTEM


@pytest.mark.parametrize("field", ["prompt", "question"])
def test_a_system_prompt_beside_the_texts(tmp_path: Path, field: str) -> None:
    [row] = read(tmp_path, {"system": "Sé amable.", field: "a", "chosen": "b", "rejected": "c"}).rows
    assert row.messages == [SYSTEM, user("a"), assistant("b")]
    assert row.rejected is not None
    assert row.rejected.messages == [SYSTEM, user("a"), assistant("c")]


def test_the_other_answer_is_part_of_what_a_row_is(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "d"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
    ]
    first, second, third = read(tmp_path, *rows).rows
    assert first.content() == third.content() != second.content()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "a", "chosen": "b"}, "`rejected` is missing"),
    ({"prompt": "a", "rejected": "b"}, "`chosen` is missing"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "`chosen` and `rejected` are the same"),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, "`rejected` must be a list of messages, not a number"),
    ({"prompt": 3, "chosen": "b", "rejected": "c"}, "`prompt` must be a string"),
    ({"chosen": "uno dos", "rejected": "uno dos"}, "`chosen` and `rejected` are the same"),
    (
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("b")]},
        "`chosen` and `rejected` are the same",
    ),
    (
        {"prompt": [user("a")], "chosen": [user("b")], "rejected": [assistant("c")]},
        "the first message of `chosen`",
    ),
    (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("otra"), assistant("c")]},
        "`chosen` and `rejected` answer different prompts",
    ),
    (
        {
            "prompt": "otra",
            "chosen": [user("a"), assistant("b")],
            "rejected": [user("a"), assistant("c")],
        },
        "`prompt` is not what `chosen` and `rejected` begin with",
    ),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("a")]}, "`rejected` has nothing of its own"),
    ({"chosen": [assistant("b")], "rejected": [assistant("c")]}, "no message before `chosen` and `rejected`"),
    ({"input": "a", "preferred_output": [], "non_preferred_output": []}, "`input` must be an object"),
    (
        {"input": {"messages": [user("a")]}, "preferred_output": [assistant("b")]},
        "`non_preferred_output` must be",
    ),
    (
        {
            "input": {"messages": [user("a")]},
            "preferred_output": [assistant("b")],
            "non_preferred_output": [user("c")],
        },
        "the first message of `non_preferred_output`",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_rows(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    dataset = read(tmp_path, row)
    assert dataset.rows == []
    assert dataset.problems[0].line == 1
    assert dataset.problems[0].reason.startswith(reason)
