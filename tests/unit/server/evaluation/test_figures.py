"""Figures and their intervals: against published examples, sacrebleu itself and rouge-score."""

from __future__ import annotations

import numpy as np
import pytest

from llamaleon_server.evaluation import intervals, json_fields, labels, overlap
from llamaleon_server.evaluation.intervals import newcombe, resampled, resampled_difference, wilson

ANSWERS = ["La reunión es mañana a las diez.", "El informe está listo", "No sé nada de eso, señor"]
REFERENCES = ["La reunión será mañana a las 10.", "El informe está casi listo", "Nada sé de ello"]


def test_wilson_as_published() -> None:
    """81 of 263, 0 of 20, 1 of 29: Newcombe (1998), Statistics in Medicine 17, 857-872, table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


def test_paired_shares_all_right_and_all_wrong_stay_uncertain() -> None:
    low, high = newcombe(np.ones(20), np.zeros(20))
    assert high == 1.0
    assert 0.7 < low < 1.0, "resampling would say that 20 rows are certain"
    low, high = newcombe(np.zeros(20), np.zeros(20))
    assert low == pytest.approx(-high)
    assert 0.1 < high < 0.2


def test_paired_shares_as_published() -> None:
    """36, 12, 2 and 0 of 50 rows: Newcombe (1998), Statistics in Medicine 17, 2635-2650, table III."""
    first = np.array([1] * 36 + [1] * 12 + [0] * 2)
    second = np.array([1] * 36 + [0] * 12 + [1] * 2)
    assert newcombe(first.astype(float), second.astype(float)) == pytest.approx((0.0569, 0.3404), abs=1e-4)


def test_a_resampled_mean_has_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = resampled(np.stack([values, np.ones(400)], axis=1), overlap.ratio)
    assert found is not None and found.low is not None and found.high is not None
    assert found.value == pytest.approx(values.mean())
    reach = 1.96 * values.std() / 20
    assert (found.value - found.low, found.high - found.value) == pytest.approx((reach, reach), rel=0.15)
    assert found == resampled(np.stack([values, np.ones(400)], axis=1), overlap.ratio), "seeded"


@pytest.mark.parametrize("rows", [10, 20])
def test_the_interval_of_few_rows_is_as_wide_as_it_says(rows: int) -> None:
    """The truth is in 95 % of the intervals, give or take; of plain percentiles in 90 to 92 %."""
    random, found = np.random.default_rng(5), 0
    for _ in range(300):
        figure = resampled(np.stack([random.normal(0, 1, rows), np.ones(rows)], axis=1), overlap.ratio)
        assert figure is not None and figure.low is not None and figure.high is not None
        found += figure.low <= 0 <= figure.high
    assert 0.93 <= found / 300 <= 0.97


def test_a_difference_is_of_the_same_rows() -> None:
    """Rows that are hard for both models are no uncertainty of the difference."""
    hard = np.random.default_rng(2).uniform(0, 100, 50)
    ones = np.ones(50)
    found = resampled_difference(np.stack([hard + 1, ones], 1), np.stack([hard, ones], 1), overlap.ratio)
    assert found is not None and found.low is not None
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_samples_of_many_rows_are_drawn_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 rows at once would be gigabytes. It is the same draw."""
    values = np.random.default_rng(3).uniform(0, 1, (30, 2))
    whole = resampled(values, overlap.ratio), resampled_difference(values, values[::-1], overlap.ratio)
    monkeypatch.setattr(intervals, "AT_ONCE", 7 * 30)
    parts = resampled(values, overlap.ratio), resampled_difference(values, values[::-1], overlap.ratio)
    for one, other in zip(whole, parts, strict=True):
        assert one is not None and other is not None
        assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_too_few_rows_have_no_interval() -> None:
    assert resampled(np.array([[1.0, 1.0], [2.0, 1.0]]), overlap.ratio) == intervals.Figure(1.5, rows=2)
    assert resampled(np.zeros((0, 2)), overlap.ratio) is None
    assert resampled(np.zeros((4, 2)), overlap.ratio) is None, "nothing to divide by"


def test_bleu_and_chrf_are_sacrebleus_own() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    for ours, theirs in ((overlap.bleu, BLEU()), (overlap.chrf, CHRF())):
        statistics, combine = ours(ANSWERS, REFERENCES)
        whole = combine(statistics.sum(axis=0, keepdims=True))[0]
        assert whole == pytest.approx(theirs.corpus_score(ANSWERS, [REFERENCES]).score)
        assert 0 < whole < 100
        assert combine(ours(ANSWERS, ANSWERS)[0].sum(axis=0, keepdims=True))[0] == pytest.approx(100)


# What rouge-score 0.1.2 says with a tokenizer that lowers and keeps words of any script.
@pytest.mark.parametrize(
    ("reference", "answer", "rouge_1", "rouge_l"),
    [
        ("the cat sat on the mat", "the cat is on the mat today", 0.769231, 0.769231),
        (
            "La reunión es mañana a las diez, en Málaga.",
            "Mañana a las diez habrá reunión en Málaga",
            0.823529,
            0.705882,
        ),
        ("uno dos", "tres", 0.0, 0.0),
        ("a b c d", "a c b d", 1.0, 0.75),
    ],
)
def test_rouge_is_that_of_rouge_score(reference: str, answer: str, rouge_1: float, rouge_l: float) -> None:
    assert overlap.rouge_1(answer, reference) == pytest.approx(rouge_1, abs=1e-6)
    assert overlap.rouge_l(answer, reference) == pytest.approx(rouge_l, abs=1e-6)


# ---------------------------------------------------------------- JSON


def counts(given: str, wanted: str) -> dict[str, tuple[int, int, int]]:
    found = json_fields.compare(json_fields.parse(given), json_fields.parse(wanted))
    return {place: (one.right, one.given, one.wanted) for place, one in found.items()}


def test_fields_of_lists_are_paired_whatever_their_order() -> None:
    wanted = '{"name": "Ñ", "blockers": [{"id": "A", "hours": 5}, {"id": "B", "hours": 6}]}'
    swapped = '{"blockers": [{"hours": 6.0, "id": "B"}, {"id": "A", "hours": 5}], "name": "Ñ"}'
    assert counts(swapped, wanted) == {
        "name": (1, 1, 1),
        "blockers[].id": (2, 2, 2),
        "blockers[].hours": (2, 2, 2),
    }
    mixed = '{"name": "Ñ", "blockers": [{"id": "A", "hours": 6}, {"id": "B", "hours": 5}]}'
    assert counts(mixed, wanted)["blockers[].hours"] == (0, 2, 2), "values belong to their element"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("no JSON", {"a": (0, 0, 1), "b": (0, 0, 1)}),
        ('{"a": 1}', {"a": (1, 1, 1), "b": (0, 0, 1)}),
        ('{"a": 1, "b": [], "c": 3}', {"a": (1, 1, 1), "b": (1, 1, 1), "c": (0, 1, 0)}),
        ('{"a": true, "b": {}}', {"a": (0, 1, 1), "b": (0, 1, 1)}),
        ('{"a": {"x": 1}, "b": [2]}', {"a": (0, 0, 1), "b": (0, 0, 1), "a.x": (0, 1, 0), "b[]": (0, 1, 0)}),
    ],
)
def test_missing_wrong_and_invented_fields(given: str, found: dict[str, tuple[int, int, int]]) -> None:
    assert counts(given, '{"a": 1, "b": []}') == found


def test_json_equality_is_that_of_json() -> None:
    def same(one: str, other: str) -> bool:
        return json_fields.equal(json_fields.parse(one), json_fields.parse(other))

    assert same('{"a": 1, "b": [1, {"c": null}]}', '{"b":[1.0,{"c":null}],"a":1}')
    assert not same("[1, 2]", "[2, 1]")
    assert not same("[true]", "[1]")


@pytest.mark.parametrize(
    "text", ["3", '"a"', '{"a": NaN}', "[-Infinity]", "{", "", "[" * 100_000, "[" * 60 + "]" * 60]
)
def test_what_is_no_json_object(text: str) -> None:
    assert json_fields.parse(text) is None


# ---------------------------------------------------------------- labels


def test_labels_are_few_short_and_repeated() -> None:
    tickets = ["urgente", "spam", "Urgente", "ventas", "spam", "ventas"]
    assert labels.labels_of(tickets) == ["spam", "urgente", "ventas"]
    assert labels.labels_of(["uno", "dos", "tres", "uno"]) is None, "hardly any repeats"
    assert labels.labels_of(["sí"] * 10) is None, "one label says nothing"
    assert labels.labels_of(["a" * 61, "b"] * 10) is None
    assert labels.labels_of(["a\nb", "c"] * 10) is None


def test_macro_f1_counts_every_label_alike() -> None:
    references = ["a"] * 8 + ["b"] * 2
    answers = ["A."] * 8 + ["a", "no idea"]
    statistics = labels.statistics(answers, references, ["a", "b"])
    # a: 8 right, 1 wrongly given; b: 2 missed.
    assert labels.macro_f1(statistics.sum(axis=0, keepdims=True))[0] == pytest.approx((16 / 17 + 0) / 2)
    only_a = labels.statistics(answers[:8], references[:8], ["a", "b"])
    assert labels.macro_f1(only_a.sum(axis=0, keepdims=True))[0] == 1.0, "b is neither wanted nor given"


def test_confusion_has_a_column_for_no_label_at_all() -> None:
    found = labels.confusion(["a", "b", "¿eh?"], ["a", "a", "b"], ["a", "b"])
    assert found == labels.Confusion(["a", "b"], ["a", "b", labels.OTHER], [[1, 1, 0], [0, 0, 1]])
    assert labels.confusion(["b"], ["b"], ["a", "b"]).answers == ["a", "b"]
