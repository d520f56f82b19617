"""Ratios of paired rounds, and the page that is made of figures."""

from __future__ import annotations

import pytest
from tests.bench import report
from tests.bench.__main__ import chosen
from tests.bench.figures import Figure
from tests.bench.rounds import Outcome


def test_a_ratio_is_the_median_of_rounds_not_a_ratio_of_medians() -> None:
    values = {"ours": [10.0, 20.0, 90.0], "peer": [5.0, 20.0, 30.0]}
    cpu = {name: [0.1] * 3 for name in values}
    figure = Outcome(values, cpu).figure("x", "ours", "peer", None, "tokens_per_s")
    assert figure.raw["ratio"] == 2.0
    assert (figure.raw["ratio_least"], figure.raw["ratio_most"]) == (1.0, 3.0)


def test_who_sat_out_a_round_is_compared_on_the_others() -> None:
    values = {"ours": [10.0, 20.0, 90.0], "slow": [5.0]}
    cpu = {name: [0.1] for name in values}
    assert Outcome(values, cpu).figure("x", "ours", "slow", None, "tokens_per_s").raw["ratio"] == 2.0


def test_measures_are_chosen_by_name_or_by_family() -> None:
    known = ["peers-text", "peers-q8_0", "soak"]
    assert chosen(known, ["peers"]) == ["peers-text", "peers-q8_0"]
    assert chosen(known, []) == known
    with pytest.raises(SystemExit, match="peers-text, peers-q8_0, soak"):
        chosen(known, ["peer"])


def test_the_page_has_tables_details_and_says_what_was_not_run() -> None:
    figures = [Figure("speed", "1.02", "at least 1.0", {"ratio": 1.02}, "Flags: `-x`")]
    entry = {"machine": "2 cores", "figures": [figure.as_dict() for figure in figures]}
    page = report.page({"peers-q8_0": entry})
    assert "Machine: 2 cores." in page
    assert "| speed | 1.02 | at least 1.0 |" in page
    assert page.index("| speed") < page.index("Flags: `-x`")
    assert report.UNTESTED in page


def test_figures_from_another_machine_are_told_apart() -> None:
    entries = {
        name: {"machine": machine, "figures": [Figure("x", "1").as_dict()]}
        for name, machine in (("peers-q8_0", "old box"), ("soak", "new box"))
    }
    page = report.page(entries)
    assert "Machine: new box." in page
    assert "Measured on: old box." in page


def test_every_measure_has_a_section() -> None:
    from pathlib import Path

    from tests.bench.__main__ import measures
    from tests.bench.options import Options

    placed = {name for _, names in report.SECTIONS.values() for name in names}
    for gpu in (False, True):
        assert set(measures(Options(Path(), gpu=gpu))) <= placed
