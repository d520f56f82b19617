"""The figures that an evaluation may have, and which of them the references call for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from llamaleon_server.evaluation import intervals, json_fields, labels, overlap
from llamaleon_server.evaluation.intervals import Array, Combine, Figure
from llamaleon_server.evaluation.measure import Measured
from llamaleon_server.evaluation.rows import EvaluationRow

LABELS, JSON, TEXT, NONE = "labels", "json", "text", "none"
ALWAYS = "every row"
GENERATED = "every row that has an answer to generate"
OF_JSON = "every reference is a JSON object or list"
OF_TEXT = "the references are neither labels nor JSON"
OF_PAIRS = "rows that say which of two answers is liked better"


class Metric(Struct, frozen=True):
    """`unit`: "nats" per token, "share" (0 to 1), "score" (0 to 100), or "" for a plain number."""

    name: str
    unit: str
    rule: str  # to which references it applies
    higher_is_better: bool = True


METRICS = {
    metric.name: metric
    for metric in (
        Metric("loss", "nats", ALWAYS, higher_is_better=False),
        Metric("perplexity", "", ALWAYS, higher_is_better=False),
        Metric("preference", "share", OF_PAIRS),
        Metric("exact_match", "share", GENERATED),
        Metric("accuracy", "share", labels.RULE),
        Metric("macro_f1", "share", labels.RULE),
        Metric("valid_json", "share", OF_JSON),
        Metric("json_equal", "share", OF_JSON),
        Metric("field_f1", "share", OF_JSON),
        Metric("bleu", "score", OF_TEXT),
        Metric("chrf", "score", OF_TEXT),
        Metric("rouge_1", "share", OF_TEXT),
        Metric("rouge_l", "share", OF_TEXT),
    )
}
MAIN = {LABELS: "accuracy", JSON: "field_f1", TEXT: "chrf", NONE: "loss"}
"""By the kind of the references, what is told first, and what rows are compared by."""


class Scores(Struct, frozen=True):
    """Of one model: a row of statistics for each of the rows `at`, and how their sums become the figure.

    Without `combine` the figure is the share of rows whose only statistic is 1. `per_token`: the second
    statistic are tokens, of which another vocabulary makes others.
    """

    at: list[int]
    rows: Array  # (n_rows, n_statistics)
    combine: Combine | None = None
    per_token: bool = False

    def figure(self) -> Figure | None:
        if self.combine is None:
            return intervals.share(self.rows[:, 0])
        return intervals.resampled(self.rows, self.combine)

    def over(self, other: Scores) -> Figure | None:
        """How much more than `other`, on the rows of both; None where a token is not the same for both."""
        shared = sorted(set(self.at) & set(other.at))
        first, second = self._only(shared), other._only(shared)
        if self.per_token and not np.array_equal(first[:, 1], second[:, 1]):
            return None
        if self.combine is None:
            return intervals.share_difference(first[:, 0], second[:, 0])
        return intervals.resampled_difference(first, second, self.combine)

    def _only(self, wanted: Sequence[int]) -> Array:
        place = {row: index for index, row in enumerate(self.at)}
        return self.rows[[place[row] for row in wanted]]


def kind_of(references: Sequence[str]) -> str:
    """LABELS, JSON, TEXT, or NONE if there is nothing to generate. Labels may not be JSON objects."""
    if not references:
        return NONE
    if all(json_fields.parse(reference) is not None for reference in references):
        return JSON
    return LABELS if labels.labels_of(references) is not None else TEXT


def scores_of(
    rows: Sequence[EvaluationRow], measured: Measured, kind: str, known: Sequence[str]
) -> dict[str, Scores]:
    """Every metric that applies, by name; `known` are the labels if `kind` is LABELS. Blocks."""
    costs = {at: cost for at, cost in measured.costs.items() if cost.weight}
    spent = np.array([(cost.nats, cost.weight) for cost in costs.values()]).reshape(-1, 2)
    found = {
        "loss": Scores(list(costs), spent, overlap.ratio, per_token=True),
        "perplexity": Scores(list(costs), spent, _perplexity, per_token=True),
    }
    pairs = [at for at, cost in measured.rejected.items() if cost.weight and at in costs]
    if pairs:
        liked = [float(_loss(measured.costs[at]) < _loss(measured.rejected[at])) for at in pairs]
        found["preference"] = Scores(pairs, np.array(liked).reshape(-1, 1))
    at = list(measured.answers)
    if at:
        answers = [measured.answers[row].strip() for row in at]
        references = [(rows[row].reference or "").strip() for row in at]
        for name, (statistics, combine) in _of_answers(answers, references, kind, known).items():
            found[name] = Scores(at, statistics, combine)
    return {name: found[name] for name in METRICS if name in found}


def _of_answers(
    answers: list[str], references: list[str], kind: str, known: Sequence[str]
) -> dict[str, tuple[Array, Combine | None]]:
    found: dict[str, tuple[Array, Combine | None]] = {
        "exact_match": (_each(_same, answers, references), None)
    }
    if kind == LABELS:
        right = _each(
            lambda answer, wanted: labels.normal(answer) == labels.normal(wanted), answers, references
        )
        found["accuracy"] = (right, None)
        found["macro_f1"] = (labels.statistics(answers, references, known), labels.macro_f1)
    elif kind == JSON:
        found["valid_json"] = (
            _each(lambda answer, _: json_fields.parse(answer) is not None, answers, references),
            None,
        )
        found["json_equal"] = (_each(_json_equal, answers, references), None)
        found["field_f1"] = (
            np.array([_field_sums(*pair) for pair in zip(answers, references, strict=True)]),
            _sums_f1,
        )
    else:
        found["bleu"] = overlap.bleu(answers, references)
        found["chrf"] = overlap.chrf(answers, references)
        found["rouge_1"] = overlap.means(overlap.rouge_1, answers, references)
        found["rouge_l"] = overlap.means(overlap.rouge_l, answers, references)
    return found


def row_score(kind: str, answer: str, reference: str) -> float:
    """How good one answer is, 0 to 1: what the row's models are compared by. `kind` is not NONE."""
    answer, reference = answer.strip(), reference.strip()
    if kind == JSON:
        right, given, wanted = _field_sums(answer, reference)
        return 2 * right / (given + wanted)
    if kind == LABELS:
        return float(labels.normal(answer) == labels.normal(reference))
    statistics, combine = overlap.chrf([answer], [reference])
    return float(combine(statistics)[0]) / 100


def fields_of(rows: Sequence[EvaluationRow], measured: Measured) -> dict[str, json_fields.Counts]:
    """Of references that are JSON: every field over all answers, in the order of the references."""
    found: dict[str, json_fields.Counts] = {}
    for at, answer in measured.answers.items():
        wanted = json_fields.parse(rows[at].reference or "")
        for place, counts in json_fields.compare(json_fields.parse(answer), wanted).items():
            found.setdefault(place, json_fields.Counts()).add(counts)
    return found


def _loss(cost: Any) -> float:
    return float(cost.nats / cost.weight)


def _perplexity(sums: Array) -> Array:
    return np.exp(np.minimum(overlap.ratio(sums), 700.0))  # beyond which no float goes


def _each(right: Callable[[str, str], bool], answers: list[str], references: list[str]) -> Array:
    pairs = zip(answers, references, strict=True)
    return np.array([float(right(answer, wanted)) for answer, wanted in pairs]).reshape(-1, 1)


def _same(answer: str, wanted: str) -> bool:
    return answer == wanted


def _json_equal(answer: str, wanted: str) -> bool:
    given = json_fields.parse(answer)
    return given is not None and json_fields.equal(given, json_fields.parse(wanted))


def _field_sums(answer: str, reference: str) -> tuple[float, float, float]:
    counts = json_fields.compare(json_fields.parse(answer), json_fields.parse(reference)).values()
    return (
        float(sum(one.right for one in counts)),
        float(sum(one.given for one in counts)),
        float(sum(one.wanted for one in counts)),
    )


def _sums_f1(sums: Array) -> Array:
    return intervals.divided(2 * sums[:, 0], sums[:, 1] + sums[:, 2])
