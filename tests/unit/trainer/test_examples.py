"""The recipes' data: repeatable, different in both splits, and right."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamaleon_trainer.examples import RECIPES, rows, write
from llamaleon_trainer.examples.__main__ import main
from llamaleon_trainer.examples.tickets import BODIES
from llamaleon_trainer.rows import read_dataset


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
