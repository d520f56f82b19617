"""Dataset shapes, and the line and reason of everything that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamaleon_trainer.rows import Dataset, read_dataset

CHAT = {
    "messages": [{"role": "user", "content": "¿Qué tal?"}, {"role": "assistant", "content": "Ñandú, 5 €"}]
}


def read(tmp_path: Path, data: bytes | str, name: str = "data.jsonl") -> Dataset:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_dataset(path)


def reasons(dataset: Dataset) -> list[str]:
    return [f"{line}: {reason}" for line, reason in dataset.problems]


def assistant(content: Any = "sí", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


USER = {"role": "user", "content": "hola"}


class TestShapes:
    def test_chat(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, json.dumps(CHAT, ensure_ascii=False))
        assert (dataset.shape, dataset.problems) == ("chat", [])
        assert dataset.rows[0].messages == CHAT["messages"]

    def test_chat_with_parts_tools_and_weights(self, tmp_path: Path) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        row = {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                assistant("context", weight=0),
                assistant(None, tool_calls=[call]),
                {"role": "tool", "content": "", "tool_call_id": "1"},
                assistant("fin", weight=1),
            ],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }
        dataset = read(tmp_path, json.dumps(row))
        assert dataset.problems == []
        messages = dataset.rows[0].messages
        assert messages is not None
        assert [message["content"] for message in messages] == ["ab", "context", "", "", "fin"]
        assert messages[2]["tool_calls"] == [call]
        assert dataset.rows[0].tools == row["tools"]

    def test_prompt_and_completion_stay_raw_text(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, '{"prompt": "2+2=", "completion": " 4"}')
        row = dataset.rows[0]
        assert (dataset.shape, row.prompt, row.completion, row.messages) == ("prompt", "2+2=", " 4", None)

    def test_conversational_prompt_learns_the_completion_only(self, tmp_path: Path) -> None:
        row = {"prompt": [USER, assistant("antes"), USER], "completion": [assistant("ahora")]}
        messages = read(tmp_path, json.dumps(row)).rows[0].messages
        assert messages is not None
        assert [message.get("weight", 1) for message in messages if message["role"] == "assistant"] == [0, 1]

    @pytest.mark.parametrize("given", [{"input": "Madrid"}, {"input": ""}, {"input": None}, {}])
    def test_alpaca_becomes_messages(self, tmp_path: Path, given: dict[str, str | None]) -> None:
        dataset = read(tmp_path, json.dumps({"instruction": "Traduce", "output": "ok", **given}))
        user = "Traduce\n\nMadrid" if given.get("input") else "Traduce"
        assert dataset.shape == "alpaca"
        assert dataset.rows[0].messages == [{"role": "user", "content": user}, assistant("ok")]

    def test_text(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, '{"text": "Érase una vez", "source": "x"}')
        assert (dataset.shape, dataset.rows[0].text) == ("text", "Érase una vez")


class TestFiles:
    def test_bom_crlf_and_blank_lines(self, tmp_path: Path) -> None:
        line = json.dumps(CHAT, ensure_ascii=False)
        dataset = read(tmp_path, b"\xef\xbb\xbf" + f"\r\n{line}\r\n  \r\n{line}\r\n".encode())
        assert dataset.problems == []
        assert [row.line for row in dataset.rows] == [2, 4]

    def test_array_knows_its_lines(self, tmp_path: Path) -> None:
        text = '[\n  {"text": "a"},\n\n  {"text": 5},\n  {"text":\n "c"}\n]\n'
        dataset = read(tmp_path, text, "data.json")
        assert [row.line for row in dataset.rows] == [2, 5]
        assert reasons(dataset) == ["4: `text` must be a string, not a number"]

    def test_json_lines_called_json(self, tmp_path: Path) -> None:
        assert len(read(tmp_path, '{"text": "a"}\n{"text": "b"}\n', "data.json").rows) == 2

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_csv(self, tmp_path: Path, separator: str) -> None:
        lines = ["instruction|input|output", 'Di "hola"||hola', '"dos\nlíneas"|x|y', "", "falta||", "a|b"]
        text = "\r\n".join(lines).replace("|", separator).replace('Di "hola"', '"Di ""hola"""')
        dataset = read(tmp_path, "\ufeff" + text, "data.csv")
        assert dataset.shape == "alpaca"
        assert [row.line for row in dataset.rows] == [2, 3]
        assert dataset.rows[0].messages == [{"role": "user", "content": 'Di "hola"'}, assistant("hola")]
        assert reasons(dataset) == ["6: `output` is empty", "7: 2 cells where the header has 3"]

    def test_a_cell_of_csv_may_be_a_book(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, f"text\n{'palabra ' * 50_000}\n", "data.csv")
        assert [len(row.text or "") for row in dataset.rows] == [400_000]

    def test_a_row_knows_its_content_wherever_it_stands(self, tmp_path: Path) -> None:
        first, second, third = read(tmp_path, '{"text": "a"}\n{"text": "a"}\n{"text": "b"}').rows
        assert first.content() == second.content() != third.content()


BAD_FILES = [
    ("data.jsonl", b"", "1: the file is empty"),
    ("data.jsonl", b"\xef\xbb\xbf \r\n", "1: the file is empty"),
    ("data.jsonl", "ñ".encode("utf-16"), "1: the file is UTF-16; save it as UTF-8"),
    ("data.jsonl", b'{"text": "a"}\n{"text": "\xf1"}\n', "2: not UTF-8: byte 0xf1 cannot be decoded"),
    ("data.json", b'[{"text": "a"},\n{"text": "\xf1"}]', "2: not UTF-8: byte 0xf1 cannot be decoded"),
    ("data.csv", b"text\na\n\xf1\n", "3: not UTF-8: byte 0xf1 cannot be decoded"),
    ("data.csv", b"text\n", "1: the file has a header and no rows"),
    ("data.csv", b'text\n"open', "2: not valid CSV: unexpected end of data"),
    ("data.json", b"[\n]", "2: the array is empty"),
    ("data.json", b'[{"text": "a"}\n {"text": "b"}]', "2: not valid JSON: expected `,` or `]`"),
    ("data.json", b'[{"text": "a"},\n', "2: not valid JSON: Expecting value"),
    ("data.json", b'[{"text": "a"}] x', "1: text after the end of the array"),
    ("data.jsonl", b'{"text": "a"}\n{"text": \n', "2: not valid JSON: Expecting value at column"),
    ("data.jsonl", b'{"a":' * 100_000, "1: not valid JSON: maximum recursion depth"),
]


@pytest.mark.parametrize(("name", "data", "expected"), BAD_FILES)
def test_bad_files(tmp_path: Path, name: str, data: bytes, expected: str) -> None:
    found = reasons(read(tmp_path, data, name))
    assert len(found) == 1
    assert found[0].startswith(expected)


BAD_ROWS: list[tuple[Any, str]] = [
    (3, "a row must be a JSON object, not a number"),
    (None, "a row must be a JSON object, not null"),
    ({}, "no known shape: its keys are none"),
    (
        {"question": "a", "answer": "b"},
        "no known shape: its keys are `question`, `answer`; expected `messages`",
    ),
    ({"messages": "hola"}, "`messages` must be a list of messages, not a string"),
    ({"messages": []}, "`messages` is empty"),
    ({"messages": ["hola"]}, "`messages[0]` must be an object with `role` and `content`, not a string"),
    ({"messages": [{"content": "a"}]}, "`messages[0].role` is missing"),
    (
        {"messages": [USER, {"role": "bot", "content": "a"}]},
        '`messages[1].role` is "bot"; expected one of system',
    ),
    ({"messages": [USER]}, "`messages` has no assistant message"),
    ({"messages": [USER, assistant(weight=0)]}, "every assistant message of `messages` has weight 0"),
    ({"messages": [USER, assistant(weight=0.5)]}, "`messages[1].weight` must be 0 or 1"),
    (
        {"messages": [{**USER, "weight": 1}, assistant()]},
        "`messages[0].weight` must be 0 or 1, on an assistant",
    ),
    ({"messages": [USER, {"role": "assistant"}]}, "`messages[1].content` is missing"),
    ({"messages": [USER, assistant("  ")]}, "`messages[1].content` is empty"),
    ({"messages": [USER, assistant(5)]}, "`messages[1].content` must be a string or a list of text parts"),
    ({"messages": [USER, assistant([{"type": "image_url"}])]}, "`messages[1].content[0]` must be"),
    ({"messages": [{**USER, "tool_calls": [1]}, assistant()]}, "`messages[0]` calls a tool"),
    ({"messages": [USER, assistant("a", tool_calls={"a": 1})]}, "`messages[1].tool_calls` must be a list"),
    ({"messages": [USER, assistant()], "tools": "f"}, "`tools` must be a list of objects"),
    ({"prompt": "a"}, "`completion` is missing"),
    ({"prompt": "a", "completion": ""}, "`completion` is empty"),
    ({"prompt": 1, "completion": "b"}, "`prompt` must be a string, not a number"),
    ({"prompt": [USER], "completion": [USER]}, "`completion` has no assistant message"),
    ({"instruction": "a"}, "`output` is missing"),
    ({"instruction": "a", "output": "b", "input": {}}, "`input` must be a string, not an object"),
    ({"text": None}, "`text` is missing"),
    ({"text": True}, "`text` must be a string, not a boolean"),
    ({"text": "\ud83d"}, "contains half a character (\\ud83d)"),
]


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_bad_rows(tmp_path: Path, row: Any, expected: str) -> None:
    dataset = read(tmp_path, "\n" + json.dumps(row))
    assert dataset.rows == []
    assert [line for line, _ in dataset.problems] == [2]
    assert dataset.problems[0].reason.startswith(expected)


def test_mixed_shapes_follow_the_first_good_row(tmp_path: Path) -> None:
    lines = ['{"question": "a"}', '{"text": "a"}', json.dumps(CHAT), '{"text": "b"}']
    dataset = read(tmp_path, "\n".join(lines))
    assert (dataset.shape, [row.line for row in dataset.rows]) == ("text", [2, 4])
    assert dataset.problems[1] == (3, "a chat row in a file whose first row is text; use one shape per file")


@pytest.mark.parametrize(
    "row",
    [
        {**CHAT, "tools": "[" * 100_000},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "[" * 10**5}]},
    ],
)
def test_json_in_a_string_may_be_too_deep(tmp_path: Path, row: dict[str, Any]) -> None:
    dataset = read(tmp_path, f"{json.dumps(row)}\n{json.dumps(CHAT)}\n")
    assert reasons(dataset)[0] == "1: nested too deep"


@settings(deadline=None)  # the file system of a busy machine
@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv"]))
def test_never_raises_for_what_a_file_contains(tmp_path_factory: Any, data: bytes, name: str) -> None:
    dataset = read(tmp_path_factory.mktemp("rows"), data, name)
    assert dataset.rows or dataset.problems


WORDS = ["user", "assistant", "human", "gpt", "model", "function_call", '{"name": "f"}']
INNER = [
    "role",
    "content",
    "text",
    "weight",
    "type",
    "tool_calls",
    "function",
    "name",
    "from",
    "value",
    "author",
]
INNER += ["parts", "messages", "tools"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=8,
)
OUTER = ["messages", "prompt", "completion", "instruction", "output", "history", "system", "tools", "text"]
OUTER += [
    "conversations",
    "contents",
    "systemInstruction",
    "input_text",
    "output_text",
    "context",
    "question",
]
OUTER += ["chosen", "rejected", "input", "preferred_output", "non_preferred_output"]
ROWS = st.dictionaries(st.sampled_from(OUTER), JSON_VALUES, max_size=4)


@settings(deadline=None, max_examples=300)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_every_row_is_read_or_named(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    dataset = read(tmp_path_factory.mktemp("rows"), "\n".join(json.dumps(row) for row in rows))
    lines = sorted([row.line for row in dataset.rows] + [line for line, _ in dataset.problems])
    assert lines == list(range(1, len(rows) + 1))


def test_torch_is_not_imported() -> None:
    modules = "rows, records, parquet, similar, split, parity, events, job"
    code = f"import sys; from llamaleon_trainer import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
