"""What the figures of a job are said to mean, and when an adapter is good enough."""

from __future__ import annotations

from typing import Any

import pytest

from llamaleon_server.evaluation.advice import Training, advise
from llamaleon_server.evaluation.gate import comparison, judge

FALLING = [(float(step), 2.0 / step) for step in range(1, 61)]


def figure(
    value: float, low: float | None = None, high: float | None = None, rows: int = 50
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "rows": rows}


def evaluation(over_base: dict[str, Any], over_few_shot: dict[str, Any] | None = None) -> dict[str, Any]:
    differences = {"base": over_base}
    if over_few_shot is not None:
        differences["few_shot"] = over_few_shot
    return {
        "rows": over_base["rows"],
        "main": "accuracy",
        "metrics": {
            "accuracy": {"figures": {"adapter": figure(0.9, 0.85, 0.95)}, "differences": differences}
        },
        "base": {"loss": 2.0, "accuracy": 0.5},
        "few_shot": {"loss": 1.5, "accuracy": 0.88, "shots": 4},
        "adapter": {"loss": 1.0, "accuracy": 0.9},
    }


def titles(found: dict[str, Any], job: Training | None = None) -> list[str]:
    return [one.title for one in advise(found, job or Training([], [], 500, 50))]


def test_a_clear_gain_is_told_as_one() -> None:
    found = evaluation(figure(0.4, 0.3, 0.5), figure(0.3, 0.2, 0.4))
    assert titles(found) == ["Better than the base", "Prompting alone is not enough"]


def test_a_gain_that_may_be_chance_is_no_claim() -> None:
    found = evaluation(figure(0.4, -0.1, 0.6, rows=10))
    assert titles(found)[0] == "Too few held-out rows for this claim"
    assert "Few held-out rows" in titles(found)


def test_a_lower_loss_is_better() -> None:
    found = evaluation(figure(0.4, 0.3, 0.5))
    found["metrics"]["loss"] = {"figures": {}, "differences": {"base": figure(-1.0, -1.2, -0.8)}}
    found["main"] = "loss"
    assert titles(found)[0] == "Better than the base"
    found["metrics"]["loss"]["differences"]["base"] = figure(1.0, 0.8, 1.2)
    assert titles(found)[0] == "Worse than the base"


@pytest.mark.parametrize(("low", "high", "level"), [(-0.05, 0.1, "note"), (-0.3, -0.1, "warning")])
def test_examples_that_do_as_well_mean_try_prompting(low: float, high: float, level: str) -> None:
    found = advise(evaluation(figure(0.4, 0.3, 0.5), figure(0.02, low, high)), Training([], [], 500, 50))
    (prompting,) = [one for one in found if one.title == "Try prompting first"]
    assert prompting.level == level
    assert "4 examples" in prompting.text


def test_over_fitting_is_held_out_loss_rising_while_training_loss_falls() -> None:
    rising = [(10.0, 1.5), (20.0, 1.0), (40.0, 1.2), (60.0, 1.4)]
    (found,) = advise({}, Training(FALLING, rising, 500, 50))
    assert found.title == "Over-fitting"
    assert "step 20 (1.0000)" in found.text
    flat = [(step, 1.0) for step, _ in FALLING]
    assert titles({}, Training(flat, rising)) == [], "both got worse: that is not over-fitting"
    assert titles({}, Training(FALLING, [(10, 1.5), (20, 1.0), (40, 1.001), (60, 1.002)])) == []


def test_a_loss_that_still_falls_asks_for_more() -> None:
    assert titles({}, Training(FALLING, [(20, 2.0), (40, 1.5), (60, 1.0)])) == ["Not finished learning"]
    assert titles({}, Training(FALLING, [(20, 2.0), (40, 1.01), (60, 1.0)])) == []


def test_rows_that_are_few_seen_or_repeated() -> None:
    warnings = [
        "Only 40 rows: below 100, expect an adapter that overfits.",
        "3 held-out rows are also trained on (lines 4, 5, 6): the evaluation flatters.",
        "2 training rows repeat an earlier one.",
    ]
    found = advise({}, Training([], [], 36, 4, warnings))
    assert [one.title for one in found] == [
        "Held-out rows were seen in training",
        "Few rows",
        "Said while the job ran",
    ]
    assert "40 rows are few" in found[1].text
    assert titles({}, Training([], [], 95, 5)) == []


def test_a_wide_interval_is_a_rough_figure() -> None:
    found = evaluation(figure(0.4, 0.3, 0.5))
    found["metrics"]["accuracy"]["figures"]["adapter"] = figure(0.8, 0.6, 0.9)
    assert "A rough figure" in titles(found)


# ---------------------------------------------------------------- the gate


def verdict(resolved: dict[str, Any], **adapter: float | None) -> tuple[bool, str]:
    flat = {"loss": 2.0, "exact_match": 0.5, "bleu": 10.0}
    found = judge({"base": flat, "adapter": {**flat, **adapter}}, resolved)
    return found.passed, found.why


def test_the_gate_is_the_loss_unless_another_is_asked_for() -> None:
    assert verdict({}, loss=2.0)[0]
    assert verdict({}, loss=2.01) == (
        False,
        "On held-out rows the adapter is worse than the base: loss 2.0100 against 2.0000 of the base.",
    )
    assert verdict({"gate_metric": "exact_match"}, loss=9.0, exact_match=0.5)[0]
    assert not verdict({"gate_metric": "exact_match"}, loss=1.0, exact_match=0.4)[0]
    assert verdict({"gate_metric": "none"}, loss=9.0)[0]
    assert not verdict({}, loss=float("nan"))[0]


def test_the_margin_is_how_much_worse_it_may_be() -> None:
    assert verdict({"gate_margin": 0.5}, loss=2.5)[0]
    assert not verdict({"gate_margin": 0.4}, loss=2.5)[0]
    assert verdict({"gate_metric": "bleu", "gate_margin": 1.0}, bleu=9.0)[0]
    passed, why = verdict({"gate_metric": "exact_match", "gate_margin": -0.2}, exact_match=0.6)
    assert not passed
    assert why.startswith(
        "On held-out rows the adapter is not better than the base by 0.2: exact_match 60.0%"
    )
    assert verdict({"gate_metric": "exact_match", "gate_margin": -0.1}, exact_match=0.61)[0]


def test_a_metric_that_does_not_apply_falls_back_and_says_so() -> None:
    passed, why = verdict({"gate_metric": "field_f1"}, loss=3.0)
    assert not passed
    assert why.startswith("field_f1 does not apply to these rows, so loss decides.")
    found = judge({"base": {"loss": None}, "adapter": {"loss": None}}, {})
    assert found.passed, "nothing was scored"


def test_an_adapter_whose_figure_is_no_number_does_not_pass() -> None:
    """The base has one on the same rows: the adapter's sum is infinite, or none at all."""
    passed, why = verdict({}, loss=None)
    assert not passed
    assert why == "The adapter's loss on held-out rows is not a number."
    assert not verdict({"gate_metric": "field_f1"}, loss=None)[0]


def test_preferences_are_not_judged_by_the_loss() -> None:
    base, adapter = {"loss": 2.0, "preference": 0.5}, {"loss": 2.5, "preference": 0.9}
    assert judge({"base": base, "adapter": adapter}, {}).passed
    assert not judge({"base": adapter, "adapter": base}, {}).passed


def test_the_comparison_of_an_evaluation_in_words() -> None:
    found = evaluation(figure(0.4, 0.3, 0.5))
    assert comparison(found) == "loss 2.0000 -> 1.0000, accuracy 50.0% -> 90.0% (base -> adapter)"
