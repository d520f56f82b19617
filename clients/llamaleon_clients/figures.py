"""The figures of an evaluation as a table: what they are called, how they are written, how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from llamaleon_clients.api import Json
from llamaleon_clients.console import table
from llamaleon_clients.words import say

SHARE, SCORE, NATS = "{:.1%}", "{:,.1f}", "{:.4f}"
LOWER_IS_BETTER = ("loss", "perplexity")


def metrics() -> Mapping[str, tuple[str, str]]:
    """Names of an evaluation's figures -> what they are called, and how they are written."""
    return {
        "loss": (say("loss"), NATS),
        "perplexity": (say("perplexity"), SCORE),
        "preference": (say("liked answer likelier"), SHARE),
        "exact_match": (say("exact match"), SHARE),
        "accuracy": (say("accuracy"), SHARE),
        "macro_f1": (say("macro F1"), SHARE),
        "valid_json": (say("valid JSON"), SHARE),
        "json_equal": (say("equal as JSON"), SHARE),
        "field_f1": (say("field F1"), SHARE),
        "bleu": ("BLEU", SCORE),
        "chrf": ("chrF", SCORE),
        "rouge_1": ("ROUGE-1", SHARE),
        "rouge_l": ("ROUGE-L", SHARE),
    }


def interval(name: str, figure: Json | None) -> str:
    """The 95% interval of a figure."""
    if not figure or figure.get("low") is None:
        return ""
    form = metrics()[name][1]
    return say("{low} to {high}", low=form.format(figure["low"]), high=form.format(figure["high"]))


def difference(name: str, figure: Json | None) -> str:
    """How much more, in points of a hundred for shares, and whether that is more than chance."""
    if not figure:
        return ""
    form, over = metrics()[name][1], figure["value"]
    value = f"{100 * over:+.1f}" if form == SHARE else form.replace(":", ":+").format(over)
    low, high = figure.get("low"), figure.get("high")
    chance = low is None or high is None or low <= 0 <= high
    return f"{value} ({say('chance?')})" if chance else value


def job_table(evaluation: Json) -> Table:
    """Base, base with examples, and adapter on held-out rows; `evaluation` is that of a job's event."""
    parts = [part for part in ("base", "few_shot", "adapter") if part in evaluation]
    found = evaluation.get("metrics", {})
    columns = [_column(part, evaluation[part].get("shots", 0)) for part in parts]
    rows = say("{rows} held-out rows", rows=evaluation["rows"])
    made = table(rows, *columns, *([say("difference") + ">"] if found else []))
    for name, (label, form) in metrics().items():
        values = [evaluation[part].get(name) for part in parts]
        if any(value is not None for value in values):
            over = found.get(name, {}).get("differences", {}).get("base")
            cells = ["-" if value is None else form.format(value) for value in values]
            made.add_row(label, *cells, *([difference(name, over)] if found else []))
    return made


def asked_table(result: Json) -> Table:
    """Of `POST /v1/evaluations`: every figure with its interval, the difference to the other model last."""
    parts: Sequence[str] = [part for part in ("model", "few_shot", "against") if _is_in(result, part)]
    beside = "against" if "against" in parts else None
    columns = [f"{head}>" for part in parts for head in (_asked_column(part, result), "95%")]
    made = table(
        say("{rows} rows", rows=result["rows"]), *columns, *([say("difference") + ">"] if beside else [])
    )
    for name, metric in result["metrics"].items():
        label, form = metrics()[name]
        cells = []
        for part in parts:
            figure = metric["figures"].get(part)
            cells += ["-" if figure is None else form.format(figure["value"]), interval(name, figure)]
        over = [difference(name, metric["differences"].get(beside))] if beside else []
        made.add_row(label, *cells, *over)
    return made


def _is_in(result: Json, part: str) -> bool:
    return any(part in metric["figures"] for metric in result["metrics"].values())


def _column(part: str, shots: int) -> str:
    names = {"base": say("base"), "few_shot": say("{shots} examples", shots=shots), "adapter": say("adapter")}
    return names[part] + ">"


def _asked_column(part: str, result: Json) -> str:
    if part == "few_shot":
        return say("{shots} examples", shots=result["shots"])
    return str(result[part])
