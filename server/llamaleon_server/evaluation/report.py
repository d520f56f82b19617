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
from llamaleon_server.evaluation.rows import ADAPTER, BASE, Answered, read_answers
from llamaleon_server.evaluation.words import ENGLISH, Words
from llamaleon_server.registry.jobstore import CANCELLED, FAILED, SUCCEEDED, JobEvent, JobRecord, JobStore


class Told(Struct, frozen=True):
    """What the page is made of: a job as recorded, its steps and warnings, and what the models answered."""

    record: JobRecord
    training: Training
    answers: list[Answered]
    model: str


def report_page(store: JobStore, record: JobRecord, model: str, words: Words = ENGLISH) -> str:
    """Of a job at any time: what has not happened yet is left out. `model`: what the job makes. Blocks."""
    answers = read_answers(store.directory(record.id))
    return page(Told(record, _training(store.all_events(record.id)), answers, model), words)


def page(told: Told, words: Words = ENGLISH) -> str:
    record, evaluation = told.record, told.record.evaluation
    parts = parts_of(evaluation, words)
    drawn = curves(told.training.training, told.training.held_out)
    return _template().render(
        language=words.language,
        say=words.say,
        number=words.number,
        title=record.adapter,
        base=record.base,
        job=record.id,
        model=told.model,
        method=_method(record, words),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.finished_at or record.created_at)),
        status=_status(record, words),
        reason=words.retold(record.error.message) if record.error else "",
        cards=_cards(record, words),
        advice=advise(evaluation, told.training, words),
        curves=drawn,
        best=next((dot for dot in drawn.dots if dot.best), None) if drawn else None,
        parts=parts,
        figures=figures(evaluation, parts, words),
        confusion=confusion(evaluation, parts, words),
        fields=fields(evaluation, parts, words),
        worse=worse(told.answers, parts, evaluation.get("kind", "none"), words) if told.answers else None,
        examples=examples(told.answers, parts, words),
        settings=_settings(record, words),
        evaluated=bool(evaluation),
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


def _method(record: JobRecord, words: Words) -> str:
    names = {"supervised": words.say("supervised"), "dpo": words.say("preferences (DPO)")}
    return names.get(record.method, record.method)


def _status(record: JobRecord, words: Words) -> Json:
    if record.status == SUCCEEDED:
        text = words.say("Deployed") if record.deploy else words.say("Finished, not deployed")
        return {"level": "good", "text": text}
    if record.status in (FAILED, CANCELLED):
        if record.error is not None and record.error.code in ("worse_than_base", "parity_failed"):
            return {"level": "warning", "text": words.say("Not deployed")}
        return {"level": "warning", "text": words.say(record.status.capitalize())}
    return {"level": "note", "text": words.say(record.status.replace("_", " ").capitalize())}


def _cards(record: JobRecord, words: Words) -> list[Json]:
    evaluation, cards = record.evaluation, list[Json]()
    told = (evaluation.get("main", "loss"), "exact_match", "loss")
    for name in dict.fromkeys(told if told[0] != "accuracy" else (told[0], "macro_f1", "loss")):
        before, after = (evaluation.get(part, {}).get(name) for part in (BASE, ADAPTER))
        if before is not None and after is not None:
            figure = evaluation.get("metrics", {}).get(name, {}).get("figures", {}).get(ADAPTER, {})
            card = {"before": words.figure(name, before), "value": words.figure(name, after)}
            cards.append({"name": words.metric(name), **card, "note": _interval(name, figure, words)})
    if "mean_kl" in record.parity:
        cards.append(_parity_card(record.parity, words))
    return cards


def _interval(name: str, figure: Json, words: Words) -> str:
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return ""
    return words.say("95%: {low} to {high}", low=words.figure(name, low), high=words.figure(name, high))


def _parity_card(parity: Json, words: Words) -> Json:
    kl, gate = parity["mean_kl"], parity["gate"]
    told = {"kl": words.number(f"{kl:.1e}"), "gate": f"{gate:.0e}"}
    return {
        "name": words.say("Served as trained"),
        "before": "",
        "value": words.say("yes") if kl <= gate else words.say("no"),
        "note": words.say("mean KL {kl} per token, at most {gate}", **told),
    }


def _settings(record: JobRecord, words: Words) -> list[Json]:
    """With the names and values that a job is given: those are the same in every language."""
    began = {} if record.init_adapter is None else {"init_adapter": record.init_adapter}
    given = {**record.resolved, **began, "seed": record.seed}
    return [{"name": name, "value": _plain(value, words)} for name, value in given.items()]


def _plain(value: Any, words: Words) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return words.say("yes") if value else words.say("no")
    return f"{value:g}" if isinstance(value, float) else str(value)
