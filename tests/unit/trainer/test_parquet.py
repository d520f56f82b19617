"""Parquet files: rows numbered, values as JSON has them, and nothing that stops the reader."""

from __future__ import annotations

import datetime
import decimal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llamaleon_trainer.parquet import NOT_INSTALLED
from llamaleon_trainer.rows import Dataset, read_dataset


def written(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows, **more), path)
    return path


def read(path: Path, **more: Any) -> Dataset:
    return read_dataset(path, **more)


def test_conversations_lose_the_fields_that_only_others_have(tmp_path: Path) -> None:
    """Parquet gives each message every field that any of them has, null where it had none."""
    call = {"id": "1", "type": "function", "function": {"name": "hora", "arguments": "{}"}}
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "¿Qué hora es?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "10:00", "tool_call_id": "1"},
                {"role": "assistant", "content": "Las diez, ñandú.", "weight": 1},
            ]
        }
    ]
    dataset = read(written(tmp_path, rows))
    assert (dataset.problems, dataset.shape, dataset.unit) == ([], "chat", "row")
    messages = dataset.rows[0].messages
    assert messages is not None
    assert messages[0] == {"role": "user", "content": "¿Qué hora es?"}
    assert messages[1]["tool_calls"] == [call]
    assert messages[3] == {"role": "assistant", "content": "Las diez, ñandú.", "weight": 1}


def test_a_row_is_named_by_its_number(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]
    dataset = read(written(tmp_path, rows))
    assert [row.line for row in dataset.rows] == [1]
    assert dataset.problems == [(2, "`completion` is missing")]


def test_rows_beyond_the_first_batch_keep_their_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"línea {number}"} for number in range(1, 2502)]
    rows[2400] = {"text": ""}
    dataset = read(written(tmp_path, rows))
    assert [row.text for row in dataset.rows[:2]] == ["línea 1", "línea 2"]
    assert (len(dataset.rows), dataset.problems) == (2500, [(2401, "`text` is empty")])
    assert dataset.rows[-1].line == 2501


def test_values_in_templates(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "día": datetime.date(2026, 5, 3),
            "euros": decimal.Decimal("3.50"),
            "texto": "sí".encode(),
            "n": 2,
            "foto": b"\xff\xd8",
        }
    ]
    path = written(tmp_path, rows)
    [row] = read(path, text_template="{día} {euros} {texto} {n}").rows
    assert row.text == "2026-05-03 3.50 sí 2"
    assert read(path, text_template="{foto}").problems == [(1, "`foto` is binary")]


def test_maps_are_objects(tmp_path: Path) -> None:
    schema = pa.schema([("datos", pa.map_(pa.string(), pa.int64()))])
    path = written(tmp_path, [{"datos": {"a": 1, "ñ": 2}}], schema=schema)
    assert read(path, text_template="{datos}").rows[0].text == '{"a": 1, "ñ": 2}'


def test_a_picture_beside_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [{"input_text": "a", "output_text": "b", "foto": b"\xff\xd8"}]
    assert read(written(tmp_path, rows)).problems == []


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1 and then nothing of the kind PAR1"])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    [problem] = read(path).problems
    assert problem.reason.startswith("not valid Parquet: ")


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = written(tmp_path, [], schema=pa.schema([("text", pa.string())]))
    assert read(path).problems == [(1, "the file has no rows")]


def test_without_the_library_the_row_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, [{"text": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert read(path).problems == [(1, NOT_INSTALLED)]
