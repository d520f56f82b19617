"""Axolotl's data sets: as they are where their shape is ours, else written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles import axolotl
from llamaleon_clients.jobfiles.loading import load
from llamaleon_trainer.rows import read_dataset

USER, ANSWER = {"role": "user", "content": "¿?"}, {"role": "assistant", "content": "sí"}


def job(folder: Path, *datasets: Any, **more: Any) -> dict[str, Any]:
    path = folder / "config.yml"
    config = {
        "base_model": "nano",
        "adapter": "lora",
        **({"datasets": list(datasets)} if datasets else {}),
        **more,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return axolotl.settings_of(load(path))[0]


def put(folder: Path, name: str, *rows: Any) -> str:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return name


def rows(settings: dict[str, Any], key: str = "data") -> list[Any]:
    return [json.loads(line) for line in Path(settings[key]).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("entry", "row"),
    [
        ({"type": "alpaca"}, {"instruction": "a", "output": "b"}),
        ({"type": "alpaca:chat"}, {"instruction": "a", "output": "b"}),
        (
            {"type": "sharegpt"},
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        ),
        ({"type": "chat_template"}, {"messages": [USER, ANSWER]}),
        (
            {
                "type": "chat_template",
                "field_messages": "conversations",
                "message_property_mappings": {"role": "from", "content": "value"},
            },
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        ),
        ({"type": "completion"}, {"text": "a"}),
        ({}, {"prompt": "a", "completion": "b"}),
    ],
)
def test_our_shapes_go_as_they_are(tmp_path: Path, entry: dict[str, Any], row: Any) -> None:
    settings = job(tmp_path, {"path": put(tmp_path, "a.jsonl", row), **entry})
    assert settings["data"] == str(tmp_path / "a.jsonl")
    assert "text_template" not in settings


@pytest.mark.parametrize("entry", [{"type": "completion", "field": "cuerpo"}, {"type": "completion:cuerpo"}])
def test_texts_of_another_column_get_a_template(tmp_path: Path, entry: dict[str, Any]) -> None:
    settings = job(tmp_path, {"path": put(tmp_path, "a.jsonl", {"cuerpo": "x"}), **entry})
    assert settings["text_template"] == "{cuerpo}"


def test_pretraining_texts(tmp_path: Path) -> None:
    name = put(tmp_path, "a.jsonl", {"body": "x"})
    settings = job(tmp_path, pretraining_dataset=[{"path": name, "text_column": "body"}], max_steps=5)
    assert settings["text_template"] == "{body}"


@pytest.mark.parametrize(
    ("entry", "row", "expected"),
    [
        ({"type": "alpaca_chat.load_qa"}, {"question": "¿?", "answer": "sí"}, {"messages": [USER, ANSWER]}),
        (
            {"type": "alpaca_w_system.load_open_orca"},
            {"system_prompt": "Sé breve.", "question": "¿?", "response": "sí"},
            {"messages": [{"role": "system", "content": "Sé breve."}, USER, ANSWER]},
        ),
        (
            {"type": "gpteacher"},
            {"instruction": "¿?", "input": "Mira:", "response": "sí"},
            {"messages": [{"role": "user", "content": "¿?\n\nMira:"}, ANSWER]},
        ),
        (
            {
                "type": "chat_template",
                "field_messages": "turnos",
                "message_property_mappings": {"role": "quien", "content": "dice"},
                "roles": {"user": ["cliente"], "assistant": ["agente"]},
                "message_field_training": "aprende",
            },
            {
                "turnos": [
                    {"quien": "cliente", "dice": "¿?"},
                    {"quien": "agente", "dice": "eh", "aprende": False},
                    {"quien": "cliente", "dice": "¿?"},
                    {"quien": "agente", "dice": "sí", "aprende": True},
                ]
            },
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": "eh", "weight": 0},
                    USER,
                    {**ANSWER, "weight": 1},
                ]
            },
        ),
        (
            {
                "type": {
                    "field_instruction": "q",
                    "field_output": "a",
                    "format": "P: {instruction} {input}\nR: ",
                    "no_input_format": "P: {instruction}\nR: } { {{}} {0}",
                    "system_prompt": "Breve. ",
                }
            },
            {"q": "¿{x}?", "a": "sí"},
            {"prompt": "Breve. P: ¿{x}?\nR: } { {} {0}", "completion": "sí"},
        ),
    ],
)
def test_other_columns_are_written_again_and_the_server_reads_them(
    tmp_path: Path, entry: dict[str, Any], row: Any, expected: Any
) -> None:
    settings = job(tmp_path, {"path": put(tmp_path, "a.jsonl", row), **entry})
    assert rows(settings) == [expected]
    read = read_dataset(Path(settings["data"]))
    assert (len(read.rows), read.problems) == (1, [])


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("chatml.intel", {"system": "Sé breve.", "question": "¿?", "chosen": "sí", "rejected": "no"}),
        ("llama3.argilla", {"instruction": "¿?", "chosen_response": "sí", "rejected_response": "no"}),
        (
            "chatml.ultra",
            {
                "prompt": "¿?",
                "chosen": [USER, ANSWER],
                "rejected": [USER, {"role": "assistant", "content": "no"}],
            },
        ),
        (
            {"field_prompt": "p", "field_chosen": "c", "field_rejected": "r"},
            {"p": "¿?", "c": "sí", "r": "no"},
        ),
    ],
)
def test_preferences_become_openais(tmp_path: Path, kind: Any, row: Any) -> None:
    settings = job(tmp_path, {"path": put(tmp_path, "a.jsonl", row), "type": kind}, rl="dpo")
    [made] = rows(settings)
    assert made["input"]["messages"][-1] == USER
    assert (made["preferred_output"], made["non_preferred_output"][0]["content"]) == ([ANSWER], "no")


def test_preferences_of_our_shape_go_as_they_are(tmp_path: Path) -> None:
    name = put(tmp_path, "a.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    settings = job(tmp_path, {"path": name, "type": "chat_template.default"}, rl="dpo")
    assert settings["data"] == str(tmp_path / name)


def test_several_data_sets_of_one_shape_are_put_together(tmp_path: Path) -> None:
    first = put(tmp_path, "a.jsonl", {"instruction": "¿?", "output": "sí"})
    (tmp_path / "b.json").write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "¿?"}, {"from": "gpt", "value": "sí"}]}])
    )
    (tmp_path / "c.csv").write_text("question,answer\n¿?,sí\n", encoding="utf-8")
    settings = job(
        tmp_path,
        {"path": first, "type": "alpaca"},
        {"path": "json", "data_files": ["b.json"], "type": "sharegpt"},
        {"path": "c.csv", "type": "alpaca_chat.load_qa"},
        val_set_size=1,
    )
    assert rows(settings) == [{"messages": [USER, ANSWER]}] * 3
    assert settings["held_out_fraction"] == pytest.approx(1 / 3, abs=1e-6)


def test_several_shapes_are_refused_by_name(tmp_path: Path) -> None:
    first = put(tmp_path, "a.jsonl", {"instruction": "a", "output": "b"})
    second = put(tmp_path, "b.jsonl", {"text": "a"})
    with pytest.raises(
        BadInput, match=r"`datasets\[1\]`: its rows become text, those of `datasets\[0\]` mess"
    ):
        job(tmp_path, {"path": first, "type": "alpaca"}, {"path": second, "type": "completion"})


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"path": "tatsu-lab/alpaca", "type": "alpaca"}, "hf:tatsu-lab/alpaca:train"),
        (
            {"path": "a/b", "name": "en", "split": "train[:5%]", "revision": "v1", "type": "alpaca"},
            "hf:a/b/en@v1:train",
        ),
    ],
)
def test_a_hub_id_goes_to_the_server(tmp_path: Path, entry: dict[str, Any], name: str) -> None:
    assert job(tmp_path, entry)["data"] == name


def test_hub_rows_are_not_written_again(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a hub's rows are taken as they are"):
        job(tmp_path, {"path": "a/b", "type": "gpteacher"})
    with pytest.raises(BadInput, match="single files of a hub's data set"):
        job(tmp_path, {"path": "a/b", "data_files": "x.json", "type": "alpaca"})


def test_held_out_rows_of_their_own(tmp_path: Path) -> None:
    one = put(tmp_path, "a.jsonl", {"question": "¿?", "answer": "sí"})
    two = put(tmp_path, "b.jsonl", {"question": "¿?", "answer": "sí"})
    kind = {"type": "alpaca_chat.load_qa"}
    settings = job(tmp_path, {"path": one, **kind}, test_datasets=[{"path": two, **kind}], val_set_size=0)
    assert rows(settings, "valid") == [{"messages": [USER, ANSWER]}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"question": "a"}', "line 1: `answer` is missing or empty"),
        (b'{"question": "a", "answer": "b"}\n{"question": ', "line 2: not JSON"),
        (b"[1]", "line 1: a row must be an object"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_bad_rows_are_told_by_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        job(tmp_path, {"path": "a.jsonl", "type": "alpaca_chat.load_qa"})
    assert said in str(caught.value)
    assert "a.jsonl" in str(caught.value)


def test_other_files_are_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"from \.jsonl, \.json, \.csv files only"):
        job(tmp_path, {"path": "a.parquet", "type": "gpteacher"})
