"""The report of a job: one page of HTML that needs no network, for screens, phones and paper."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from msgspec import Struct

from llamaleon_server.evaluation.advice import Training, advise
from llamaleon_server.evaluation.curves import curves
from llamaleon_server.evaluation.figures import Json, confusion, examples, fields, figures, parts_of, worse
from llamaleon_server.evaluation.gate import named, shown
from llamaleon_server.evaluation.rows import ADAPTER, BASE, Answered, read_answers
from llamaleon_server.registry.jobstore import CANCELLED, FAILED, SUCCEEDED, JobEvent, JobRecord, JobStore

NOTES = (
    "Intervals: Wilson's for shares of rows, Newcombe's for their paired difference, else 1,000 bootstrap "
    "samples of the rows. Differences compare the same rows.",
    "Losses are of at most 200 held-out rows and answers of at most 50, the first ones; answers are greedy.",
)


class Told(Struct, frozen=True):
    """What the page is made of: a job as recorded, its steps and warnings, and what the models answered."""

    record: JobRecord
    training: Training
    answers: list[Answered]
    model: str


def report_page(store: JobStore, record: JobRecord, model: str) -> str:
    """Of a job at any time: what has not happened yet is left out. `model`: what the job makes. Blocks."""
    answers = read_answers(store.directory(record.id))
    return page(Told(record, _training(store.all_events(record.id)), answers, model))


def page(told: Told) -> str:
    record, evaluation = told.record, told.record.evaluation
    parts = parts_of(evaluation)
    drawn = curves(told.training.training, told.training.held_out)
    return _template().render(
        title=record.adapter,
        base=record.base,
        job=record.id,
        model=told.model,
        method=_method(record),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.finished_at or record.created_at)),
        status=_status(record),
        reason=record.error.message if record.error else "",
        cards=_cards(record),
        advice=advise(evaluation, told.training),
        curves=drawn,
        best=next((dot for dot in drawn.dots if dot.best), None) if drawn else None,
        parts=parts,
        figures=figures(evaluation, parts),
        confusion=confusion(evaluation, parts),
        fields=fields(evaluation, parts),
        worse=worse(told.answers, parts, evaluation.get("kind", "none")) if told.answers else None,
        examples=examples(told.answers, parts),
        settings=_settings(record),
        notes=NOTES if evaluation else (),
    )


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))


def _training(events: list[JobEvent]) -> Training:
    """A step that was repeated after a crash counts as it came out last."""
    losses: dict[str, dict[float, float]] = {"train_loss": {}, "valid_loss": {}}
    rows: Json = {}
    for event in events:
        if event.type == "metrics":
            for name, found in losses.items():
                if isinstance(event.data.get(name), int | float):
                    found[float(event.data["step"])] = float(event.data[name])
        elif "train_rows" in event.data and "valid_rows" in event.data:
            rows = event.data
    return Training(
        training=sorted(losses["train_loss"].items()),
        held_out=sorted(losses["valid_loss"].items()),
        train_rows=rows.get("train_rows"),
        valid_rows=rows.get("valid_rows"),
        warnings=[event.message for event in events if event.level == "warn"],
    )


def _method(record: JobRecord) -> str:
    names = {"supervised": "supervised", "dpo": "preferences (DPO)"}
    return names.get(record.method, record.method)


def _status(record: JobRecord) -> Json:
    if record.status == SUCCEEDED:
        return {"level": "good", "text": "Deployed" if record.deploy else "Finished, not deployed"}
    if record.status in (FAILED, CANCELLED):
        kept = record.error is not None and record.error.code in ("worse_than_base", "parity_failed")
        text = "Not deployed" if kept else record.status.capitalize()
        return {"level": "warning", "text": text}
    return {"level": "note", "text": record.status.replace("_", " ").capitalize()}


def _cards(record: JobRecord) -> list[Json]:
    evaluation, cards = record.evaluation, list[Json]()
    told = (evaluation.get("main", "loss"), "exact_match", "loss")
    for name in dict.fromkeys(told if told[0] != "accuracy" else (told[0], "macro_f1", "loss")):
        before, after = (evaluation.get(part, {}).get(name) for part in (BASE, ADAPTER))
        if before is not None and after is not None:
            figure = evaluation.get("metrics", {}).get(name, {}).get("figures", {}).get(ADAPTER, {})
            low, high = figure.get("low"), figure.get("high")
            note = "" if low is None else f"95%: {shown(name, low)} to {shown(name, high)}"
            card = {"name": named(name), "before": shown(name, before), "value": shown(name, after)}
            cards.append({**card, "note": note})
    if "mean_kl" in record.parity:
        kl, gate = record.parity["mean_kl"], record.parity["gate"]
        card = {"name": "Served as trained", "before": "", "value": "yes" if kl <= gate else "no"}
        cards.append({**card, "note": f"mean KL {kl:.1e} per token, at most {gate:.0e}"})
    return cards


def _settings(record: JobRecord) -> list[Json]:
    began = {} if record.init_adapter is None else {"init_adapter": record.init_adapter}
    given = {**record.resolved, **began, "seed": record.seed}
    return [{"name": name, "value": _plain(value)} for name, value in given.items()]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
