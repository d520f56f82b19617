"""`POST /v1/evaluations`: a model on the rows of a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llamaleon_server.errors import BadRequest

Text = Annotated[str, Meta(min_length=1)]
MetricName = Literal[
    "loss",
    "perplexity",
    "preference",
    "exact_match",
    "accuracy",
    "macro_f1",
    "valid_json",
    "json_equal",
    "field_f1",
    "bleu",
    "chrf",
    "rouge_1",
    "rouge_l",
]


class ReportQuery(Struct, frozen=True):
    """`lang`: of the page; else what `Accept-Language` wants, else that of the server's locale."""

    lang: Literal["en", "es"] | None = None


class EvaluationRequest(Struct, frozen=True, kw_only=True):
    """Rows of a file, in any shape that training takes, asked of a model that is served.

    `against`: another model on the same rows, and the difference to it. `few_shot`: the model once more with
    so many examples before each question, from `examples_file`, or from what the model's adapter was trained
    on; never from the rows that are evaluated. `metrics`: those to report (default: all that the references
    call for). Losses are of the first `loss_rows` rows, answers of the first `generated_rows`.
    """

    model: Text
    file: Text
    against: Text | None = None
    few_shot: Annotated[int, Meta(ge=0, le=32)] = 0
    examples_file: Text | None = None
    metrics: list[MetricName] | None = None
    loss_rows: Annotated[int, Meta(ge=0, le=100_000)] = 200
    generated_rows: Annotated[int, Meta(ge=0, le=100_000)] = 50
    text_template: Text | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    answers: bool = False  # every row with its answers, too
    stream: bool = False


class EvaluatedFigure(Struct, frozen=True, omit_defaults=True):
    """`low` and `high`: the 95% interval; absent where the rows are too few."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int = 0


class EvaluatedMetric(Struct, frozen=True):
    """By part: `model`, `few_shot`, `against`. Differences are `model` minus the part, on shared rows."""

    unit: Literal["nats", "share", "score", ""]
    better: Literal["higher", "lower"]
    rule: str  # to which references it applies
    figures: dict[str, EvaluatedFigure]
    differences: dict[str, EvaluatedFigure]


class Overlap(Struct, frozen=True):
    """Evaluated rows that an adapter of the model was trained on: of those the figures say nothing."""

    adapter: str
    rows: int
    lines: list[int]  # the first of them


class Evaluation(Struct, frozen=True, kw_only=True):
    """`kind` of the references: labels, json, text, or none if nothing is generated.

    `main`: the metric to look at first.
    """

    model: str
    file: str
    against: str | None
    shots: int  # examples that there was room for
    rows: int
    kind: Literal["labels", "json", "text", "none"]
    main: str
    metrics: dict[str, EvaluatedMetric]
    fields: list[dict[str, Any]]  # of JSON: precision, recall and F1 of each field, by part
    labels: list[str]
    confusion: dict[str, Any]  # of labels, by part
    trained_on: list[Overlap]
    answers: list[dict[str, Any]]
    object: Literal["evaluation"] = "evaluation"


class EvaluationEvent(Struct, frozen=True, kw_only=True):
    """`progress` counts rows asked and scored, of all parts; the last event is the `result`."""

    type: Literal["progress", "result"]
    done: int
    total: int
    result: Evaluation | None = None


def refuse_unusable(asked: EvaluationRequest) -> None:
    """Raises: BadRequest naming the field."""
    if asked.loss_rows == 0 and asked.generated_rows == 0:
        raise BadRequest("`loss_rows` and `generated_rows` are both 0: nothing to do.", param="loss_rows")
    if asked.examples_file is not None and asked.few_shot == 0:
        raise BadRequest("`examples_file` has no use without `few_shot`.", param="few_shot")
    if asked.against == asked.model:
        raise BadRequest("`against` is the model itself.", param="against")
