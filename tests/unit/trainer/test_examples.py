"""The recipes' data: repeatable, different in both splits, and right."""

from __future__ import annotations

import ast
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamaleon_trainer.examples import RECIPES, extractor, rows, write
from llamaleon_trainer.examples.__main__ import main
from llamaleon_trainer.examples.tickets import BODIES
from llamaleon_trainer.nano.words import HEADS, TAILS, spanish_number
from llamaleon_trainer.rows import read_dataset

HELD_OUT_REPORTS = 3897585900  # checksum of the extractor's first 50


def drawn(name: str, count: int = 200, seed: int = 1, split: Any = "train") -> list[tuple[str, str]]:
    found: list[Any] = [row["messages"] for row in rows(name, count, seed, split)]
    return [(messages[0]["content"], messages[1]["content"]) for messages in found]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_seed_repeats_and_the_splits_differ(name: str) -> None:
    assert drawn(name, 20) == drawn(name, 20) != drawn(name, 20, seed=2)
    train, held_out = drawn(name), drawn(name, split="heldout")
    assert len(set(train)) == len(train)
    assert not {asked for asked, _ in train} & {asked for asked, _ in held_out}
    assert not any("{" in text.replace("{{", "") for text, _ in train), "a place that nothing filled"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_files_are_data_sets(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--out", str(tmp_path / "data"), "--rows", "30", "--held-out", "10"]) == 0
    said = json.loads(capsys.readouterr().out)
    for key, count in (("train", 30), ("held_out", 10)):
        dataset = read_dataset(Path(said[key]))
        assert (dataset.shape, len(dataset.rows), dataset.problems) == ("chat", count, [])


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["code", "--out", str(tmp_path / "file")]) == 1
    assert "file" in json.loads(capsys.readouterr().err)["error"]["message"]


def test_there_is_an_end_to_what_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "code", lambda words: ("a", "!"))
    with pytest.raises(ValueError, match="no 2 different rows"):
        write("code", tmp_path, 2, 1, 1)


def test_all_kinds_of_tickets_are_drawn() -> None:
    counts = Counter(label for _, label in drawn("tickets", 400))
    assert counts.keys() == BODIES.keys()
    assert min(counts.values()) > 50


def test_functions_do_what_is_asked() -> None:
    for asked, written in drawn("code", 300):
        [function] = ast.parse(written).body
        assert isinstance(function, ast.FunctionDef)
        assert function.name in asked
        assert all(argument.arg in asked for argument in function.args.args)
    space: dict[str, Any] = {}
    [(_, written)] = [pair for pair in drawn("code", 300) if "la suma de" in pair[0]][:1]
    exec(written, space)
    *_, function = space.values()
    assert function(2, 3) == 5


def test_the_extractors_answers_are_found_in_its_reports() -> None:
    for report, answer in drawn("extractor", 50):
        value = json.loads(answer)
        assert value["project_name"] in report
        assert all(blocker["ticket_id"] in report for blocker in value["blockers_today"])


def test_hard_reports_are_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out reports are drawn as ever, whatever share of the others is made hard."""
    held_out, train = drawn("extractor", 50, split="heldout"), drawn("extractor", 50)
    monkeypatch.setattr(extractor, "CONFUSING_SHARE", 1.0)
    assert drawn("extractor", 50, split="heldout") == held_out
    assert drawn("extractor", 50) != train
    # As they were when the recipe was first measured: figures of then and now can be compared.
    assert zlib.crc32(json.dumps(held_out, ensure_ascii=False).encode()) == HELD_OUT_REPORTS


def test_names_of_the_held_out_reports_are_in_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "CONFUSING_SHARE", 1.0)
    train = [json.loads(answer) for _, answer in drawn("extractor", 300)]
    held_out = [json.loads(answer) for _, answer in drawn("extractor", 300, split="heldout")]
    for named in (_tickets, _names):
        assert not {name for row in train for name in named(row)} & {
            name for row in held_out for name in named(row)
        }


def test_hard_reports_are_easily_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "CONFUSING_SHARE", 1.0)
    for report, answer in drawn("extractor", 200):
        value = json.loads(answer)
        assert all(
            text in report
            for text in (*_tickets(value), value["client"], spanish_number(value["budget_used_eur"]))
        )
        assert len(set(_tickets(value))) == len(value["blockers_today"]) > 0
        digits = {digit for text in (*_tickets(value), str(value["budget_used_eur"])) for digit in text}
        assert len([digit for digit in digits if digit.isdigit()]) <= 4 + 1  # a sum may be round
        assert all(1 <= blocker["delay_hours"] <= 72 for blocker in value["blockers_today"])


def _tickets(value: dict[str, Any]) -> list[str]:
    return [blocker["ticket_id"] for blocker in value["blockers_today"]]


def _names(value: dict[str, Any]) -> set[str]:
    """The invented words in it."""
    words = f"{value['project_name']} {value['client']}".split()
    return {word for word in words if word.startswith(HEADS) and word.endswith(TAILS)}
