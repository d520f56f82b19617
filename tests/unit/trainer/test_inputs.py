"""What the server wrote, checked before any weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.trainer.jobs import write_rows

from llamaleon_trainer.errors import BadJob
from llamaleon_trainer.inputs import Example, Examples, Inputs, check_vocabulary, read_inputs
from llamaleon_trainer.job import JobSpec, LoraSettings, Row, write_spec


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "base.gguf").touch()
    write_spec(tmp_path, JobSpec(job_id="a", base=str(tmp_path / "base.gguf"), max_sequence_tokens=6))
    write_rows(tmp_path / "train.jsonl", [Row([5, 6, 7, 8, 9], [0, 0, 1, 0.5, 0])])
    return tmp_path


def test_a_row_is_cut_behind_the_last_token_that_counts(job: Path) -> None:
    assert read_inputs(job).train.examples == [
        Example(tokens=[5, 6, 7], positions=[1, 2], targets=[7, 8], weights=[1, 0.5])
    ]


def test_long_rows_are_cut_and_empty_ones_left_out_with_a_warning(job: Path) -> None:
    long, late = Row(list(range(9)), [0.0] + [1.0] * 8), Row(list(range(9)), [0.0] * 8 + [1.0])
    write_rows(job / "train.jsonl", [long, late, Row([1], [1]), Row([1, 2], [1, 0])])
    train = read_inputs(job).train
    assert [item.sequences[0].targets for item in train.examples] == [[1, 2, 3, 4, 5]]
    assert train.warnings[0].startswith("train.jsonl: 1 rows are longer than 6 tokens")
    assert train.warnings[1].startswith("train.jsonl: 3 rows were left out")


BAD_SPECS: list[tuple[dict[str, Any], str]] = [
    ({"epoch": 3}, r"spec\.json: Object contains unknown field `epoch`"),
    ({"lora": {"rank": 3}}, r"unknown field `rank` - at `\$\.lora`"),
    ({"epochs": "3"}, r"Expected `int`, got `str` - at `\$\.epochs`"),
    ({"epochs": 0}, "`epochs` must be at least 1"),
    ({"lora": {"r": 0}}, r"`lora\.r` must be at least 1"),
    ({"lora": {"lora_dropout": 1}}, r"`lora\.lora_dropout` must be at least 0 and below 1"),
    ({"learning_rate": -1}, "`learning_rate` must be above 0"),
    ({"device": "tpu", "precision": "int8"}, "`device` must be auto, cpu or cuda; `precision` must be auto"),
    ({"base": "/nowhere/model.gguf"}, "`base` /nowhere/model.gguf does not exist"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_SPECS, ids=lambda value: str(value)[:40])
def test_bad_specs(job: Path, changes: dict[str, Any], message: str) -> None:
    spec = msgspec.json.decode((job / "spec.json").read_bytes())
    (job / "spec.json").write_bytes(msgspec.json.encode({**spec, **changes}))
    with pytest.raises(BadJob, match=message):
        read_inputs(job)


BAD_FILES = [
    ("spec.json", b"{", "spec.json: Input data was truncated"),
    ("train.jsonl", b'{"tokens": [1, 2], "weights": [1]}', "train.jsonl, line 1: 2 tokens but 1 weights"),
    ("train.jsonl", b'{"tokens": [1, 2], "weights": [0, 1]}\nx', "train.jsonl, line 2: JSON is malformed"),
    ("train.jsonl", b'{"tokens": [1, 2], "weights": [0, -1]}', "line 1: a weight is negative"),
    (
        "train.jsonl",
        b'{"tokens": [1, 2], "weights": [0, 0]}',
        "train.jsonl has no row with a token that counts",
    ),
    ("train.jsonl", b"", "train.jsonl has no row"),
    ("valid.jsonl", b'{"tokens": ["a"], "weights": [0]}', "valid.jsonl, line 1: Expected `int`"),
    ("probe.json", b"[[1], []]", "probe.json has an empty sequence"),
    ("probe.json", b"[1]", "probe.json: Expected `array`"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES)
def test_bad_files(job: Path, name: str, data: bytes, message: str) -> None:
    (job / name).write_bytes(data)
    with pytest.raises(BadJob, match=message):
        read_inputs(job)


@pytest.mark.parametrize("name", ["spec.json", "train.jsonl"])
def test_missing_files(job: Path, name: str) -> None:
    (job / name).unlink()
    with pytest.raises(BadJob, match=f"{name} cannot be read"):
        read_inputs(job)


@pytest.mark.parametrize("probe", [[[3, 512]], [[-1]]])
def test_tokens_outside_the_vocabulary(probe: list[list[int]]) -> None:
    train = Examples([Example([1], [0], [2], [1.0])], [])
    spec = JobSpec(job_id="a", base="b", lora=LoraSettings())
    with pytest.raises(BadJob, match=r"token id (512|-1) is not in the base's vocabulary of 512"):
        check_vocabulary(Inputs(spec, train, Examples([], []), probe, None), 512)
