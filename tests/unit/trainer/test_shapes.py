"""Rows of shapes that other packages bring, found by their entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaleon_trainer.rows import read_dataset
from llamaleon_trainer.shapes import other_shapes

PACKAGE = """
class Tickets:
    name = "tickets"

    def matches(self, row):
        return "asunto" in row

    def rewrite(self, row):
        if not row.get("cola"):
            raise ValueError("`cola` is missing")
        return {"prompt": row["asunto"], "completion": row["cola"]}

class Broken:
    name = "broken"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package on the path, with entry points as an installer would write them."""
    site = tmp_path / "site"
    facts = site / "tickets-1.dist-info"
    facts.mkdir(parents=True)
    (site / "tickets_shape.py").write_text(PACKAGE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tickets\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[llamaleon.dataset_shapes]\n"
        "tickets = tickets_shape:Tickets\nbroken = tickets_shape:Broken\nabsent = nowhere:Nothing\n"
    )
    monkeypatch.syspath_prepend(str(site))
    other_shapes.cache_clear()
    yield
    other_shapes.cache_clear()
    sys.modules.pop("tickets_shape", None)


@pytest.mark.usefixtures("installed")
def test_their_rows_become_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"asunto": "No enciende", "cola": "soporte"}\n{"asunto": "Factura"}\n{"text": "x"}\n')
    found = read_dataset(path)
    assert found.shape == "tickets"
    assert [(row.prompt, row.completion) for row in found.rows] == [("No enciende", "soporte")]
    assert [(problem.line, problem.reason) for problem in found.problems] == [
        (2, "as tickets: `cola` is missing"),
        (3, "a text row in a file whose first row is tickets; use one shape per file"),
    ]
    assert "absent" in caplog.text  # what cannot be loaded is said, and stops nobody
    assert "broken" in caplog.text


def test_without_the_package_the_row_has_no_known_shape(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"asunto": "No enciende", "cola": "soporte"}\n')
    [problem] = read_dataset(path).problems
    assert "no known shape" in problem.reason
