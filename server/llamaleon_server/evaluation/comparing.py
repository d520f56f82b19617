"""Several models on the same rows, as one result: figures, intervals, differences, fields, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llamaleon_server.evaluation import labels, metrics
from llamaleon_server.evaluation.json_fields import Counts
from llamaleon_server.evaluation.measure import Measured
from llamaleon_server.evaluation.rows import Answered, EvaluationRow

LISTED_FIELDS = 60

Json = dict[str, Any]


def compare(rows: Sequence[EvaluationRow], models: Mapping[str, Measured], subject: str) -> Json:
    """Flat figures of every model under its part, and `metrics` with intervals and differences. Blocks.

    Differences are `subject` minus each of the others, on the rows of both. A metric that the references do
    not call for is not there; `metrics[NAME]["rule"]` says why those that are there are.
    """
    references = [(row.reference or "").strip() for row in _generated(rows, models)]
    kind = metrics.kind_of(references)
    known = labels.labels_of(references) or []
    scores = {part: metrics.scores_of(rows, one, kind, known) for part, one in models.items()}
    result: Json = {"rows": len(rows), "kind": kind, "main": metrics.MAIN[kind], "metrics": {}}
    for name, metric in metrics.METRICS.items():
        if name in scores[subject]:
            result["metrics"][name] = _metric(metric, scores, subject)
    if "preference" in result["metrics"]:
        result["main"] = "preference"
    for part, one in models.items():
        result[part] = _flat(result["metrics"], part, one)
    if kind == metrics.JSON:
        result["fields"] = _fields({part: metrics.fields_of(rows, one) for part, one in models.items()})
    if kind == metrics.LABELS:
        result["labels"] = known
        result["confusion"] = {part: _confusion(rows, one, known) for part, one in models.items()}
    return result


def answered(rows: Sequence[EvaluationRow], models: Mapping[str, Measured], kind: str) -> list[Answered]:
    """Every row that some model was asked or scored on, in the order of `rows`. Blocks."""
    found = []
    for at, row in enumerate(rows):
        losses = {part: one.costs[at].loss for part, one in models.items() if at in one.costs}
        answers = {part: one.answers[at] for part, one in models.items() if at in one.answers}
        if losses or answers:
            made = Answered(
                line=row.line,
                prompt=row.prompt,
                reference=row.reference,
                losses={part: loss for part, loss in losses.items() if loss is not None},
                answers=answers,
                scores={
                    part: metrics.row_score(kind, answer, row.reference or "")
                    for part, answer in answers.items()
                },
            )
            found.append(made)
    return found


def _generated(rows: Sequence[EvaluationRow], models: Mapping[str, Measured]) -> list[EvaluationRow]:
    asked = {at for one in models.values() for at in one.answers}
    return [rows[at] for at in sorted(asked)]


def _metric(metric: metrics.Metric, scores: Mapping[str, dict[str, metrics.Scores]], subject: str) -> Json:
    has = {part: found[metric.name] for part, found in scores.items() if metric.name in found}
    figures = {part: one.figure() for part, one in has.items()}
    differences = {part: has[subject].over(one) for part, one in has.items() if part != subject}
    return {
        "unit": metric.unit,
        "better": "higher" if metric.higher_is_better else "lower",
        "rule": metric.rule,
        "figures": {part: msgspec.to_builtins(one) for part, one in figures.items() if one is not None},
        "differences": {
            part: msgspec.to_builtins(one) for part, one in differences.items() if one is not None
        },
    }


def _flat(found: Mapping[str, Json], part: str, one: Measured) -> Json:
    flat: Json = {
        name: metric["figures"][part]["value"] for name, metric in found.items() if part in metric["figures"]
    }
    flat.setdefault("loss", None)
    flat["rows"] = len(one.costs) or len(one.answers)
    if one.answers:
        flat["generated"] = len(one.answers)
    if one.shots:
        flat["shots"] = one.shots
    return flat


def _fields(of: Mapping[str, dict[str, Counts]]) -> list[Json]:
    """One entry a field: its place, how often it is wanted, and how good each model is at it."""
    places = list(dict.fromkeys(place for fields in of.values() for place in fields))
    wanted = {place: max(fields.get(place, Counts()).wanted for fields in of.values()) for place in places}
    shown = [place for place in places if wanted[place]][:LISTED_FIELDS]
    return [
        {
            "field": place,
            "wanted": wanted[place],
            **{
                part: {
                    "precision": fields.get(place, Counts()).precision,
                    "recall": fields.get(place, Counts()).recall,
                    "f1": fields.get(place, Counts()).f1,
                }
                for part, fields in of.items()
            },
        }
        for place in shown
    ]


def _confusion(rows: Sequence[EvaluationRow], one: Measured, known: Sequence[str]) -> Json:
    references = [rows[at].reference or "" for at in one.answers]
    found: Json = msgspec.to_builtins(labels.confusion(list(one.answers.values()), references, known))
    return found
