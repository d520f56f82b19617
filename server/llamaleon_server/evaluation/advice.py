"""What the figures of a job mean for who trained: what is wrong with them, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from llamaleon_server.evaluation.gate import LOWER_IS_BETTER, SHARES
from llamaleon_server.evaluation.rows import ADAPTER, BASE, FEW_SHOT
from llamaleon_server.evaluation.words import ENGLISH, Words

GOOD, NOTE, WARNING = "good", "note", "warning"
FEW_ROWS = 100
FEW_HELD_OUT = 20
ROSE = 1.02  # how many times its lowest the held-out loss ends at, to count as risen
STILL_FALLING = 0.95  # the last evaluation's share of the one before, to count as not finished
WIDE = 0.1  # half an interval of a share, beyond which the figure is a rough one
LEAKS = ("also trained on", "near-duplicate", "near-identical")

Points = Sequence[tuple[float, float]]


class Advice(Struct, frozen=True):
    level: str
    title: str
    text: str


class Training(Struct, frozen=True):
    """What is known of a job beside its evaluation; rows None: not known."""

    training: Points
    held_out: Points
    train_rows: int | None = None
    valid_rows: int | None = None
    warnings: Sequence[str] = ()


def advise(evaluation: dict[str, Any], job: Training, words: Words = ENGLISH) -> list[Advice]:
    """The most important first. `evaluation` may be empty: the job has not come so far."""
    found = [
        *_of_the_comparison(evaluation, words),
        *_of_the_examples(evaluation, words),
        *_of_the_curves(job, words),
        *_of_the_rows(evaluation, job, words),
    ]
    order = (WARNING, GOOD, NOTE)
    return sorted(found, key=lambda one: order.index(one.level))


def _of_the_comparison(evaluation: dict[str, Any], words: Words) -> list[Advice]:
    main = evaluation.get("main", "loss")
    difference = _difference(evaluation, main, BASE)
    if difference is None or difference.get("low") is None:
        return []
    say = words.say
    told = {"change": _change(main, evaluation, words), "rows": difference["rows"]}
    low, high = _gain(main, difference)
    if low > 0:
        text = say("{change}, and {rows} held-out rows are enough to tell.", **told)
        return [Advice(GOOD, say("Better than the base"), text)]
    if high < 0:
        text = say(
            "{change}. Check that the rows say what you want, then the learning rate and the epochs.", **told
        )
        return [Advice(WARNING, say("Worse than the base"), text)]
    text = say(
        "{change}, but with {rows} rows that may be chance: the interval of the difference holds zero. "
        "Hold more rows out (held_out_fraction), or give a validation_file.",
        **told,
    )
    return [Advice(WARNING, say("Too few held-out rows for this claim"), text)]


def _of_the_examples(evaluation: dict[str, Any], words: Words) -> list[Advice]:
    main = evaluation.get("main", "loss")
    difference = _difference(evaluation, main, FEW_SHOT)
    if difference is None or difference.get("low") is None:
        return []
    say = words.say
    low, high = _gain(main, difference)
    figures = say(
        "{metric} {few_shot} against {adapter}",
        metric=words.metric(main),
        few_shot=words.figure(main, evaluation[FEW_SHOT][main]),
        adapter=words.figure(main, evaluation[ADAPTER][main]),
    )
    told = {"shots": evaluation[FEW_SHOT].get("shots", 0), "figures": figures}
    if high < 0:
        text = say(
            "The base with {shots} examples in its prompt does better than the adapter: {figures}.", **told
        )
        return [Advice(WARNING, say("Try prompting first"), text)]
    if low <= 0:
        text = say(
            "The base with {shots} examples in its prompt is about as good as the adapter: {figures}. The "
            "adapter saves those tokens in every request; if that does not matter, you may not need it.",
            **told,
        )
        return [Advice(NOTE, say("Try prompting first"), text)]
    text = say("The base with {shots} examples in its prompt does not get as far: {figures}.", **told)
    return [Advice(GOOD, say("Prompting alone is not enough"), text)]


def _of_the_curves(job: Training, words: Words) -> list[Advice]:
    held_out = list(job.held_out)
    if len(held_out) < 3:
        return []
    best_step, best = min(held_out, key=lambda point: point[1])
    last_step, last = held_out[-1]
    before, after = _near(job.training, best_step), _near(job.training, last_step)
    if last > ROSE * best and before is not None and after is not None and after < before:
        text = words.say(
            "The held-out loss was lowest at step {step} ({best}) and rose to {last}, while the training "
            "loss fell from {before} to {after}. Train fewer epochs, keep the best checkpoint (load_best), "
            "stop early (early_stopping_patience), or add rows.",
            step=f"{best_step:g}",
            best=words.figure("loss", best),
            last=words.figure("loss", last),
            before=words.figure("loss", before),
            after=words.figure("loss", after),
        )
        return [Advice(WARNING, words.say("Over-fitting"), text)]
    if last == best and last < STILL_FALLING * held_out[-2][1]:
        text = words.say(
            "The held-out loss was still falling at the last step ({last}): more epochs may help.",
            last=words.figure("loss", last),
        )
        return [Advice(NOTE, words.say("Not finished learning"), text)]
    return []


def _of_the_rows(evaluation: dict[str, Any], job: Training, words: Words) -> list[Advice]:
    found, say = list[Advice](), words.say
    leaks = [warning for warning in job.warnings if any(word in warning for word in LEAKS)]
    if leaks:
        text = " ".join(map(words.retold, leaks))
        found.append(Advice(WARNING, say("Held-out rows were seen in training"), text))
    if job.train_rows is not None and job.train_rows + (job.valid_rows or 0) < FEW_ROWS:
        text = say(
            "{rows} rows are few: below {enough}, expect an adapter that repeats its rows.",
            rows=job.train_rows + (job.valid_rows or 0),
            enough=FEW_ROWS,
        )
        found.append(Advice(WARNING, say("Few rows"), text))
    if 0 < evaluation.get("rows", FEW_HELD_OUT) < FEW_HELD_OUT:
        text = say(
            "Every figure here is of {rows} held-out rows: read the intervals, not the figures.",
            rows=evaluation["rows"],
        )
        found.append(Advice(NOTE, say("Few held-out rows"), text))
    found += _of_the_interval(evaluation, words)
    others = [
        warning
        for warning in job.warnings
        if warning not in leaks and not warning.startswith("Only ")  # the count of rows is said above
    ]
    found += [Advice(NOTE, say("Said while the job ran"), words.retold(warning)) for warning in others]
    return found


def _of_the_interval(evaluation: dict[str, Any], words: Words) -> list[Advice]:
    main = evaluation.get("main", "loss")
    figure = _figures(evaluation, main).get(ADAPTER, {})
    if main not in SHARES or figure.get("low") is None or figure["high"] - figure["low"] <= 2 * WIDE:
        return []
    text = words.say(
        "{metric} of the adapter is between {low} and {high}.",
        metric=words.metric(main),
        low=words.figure(main, figure["low"]),
        high=words.figure(main, figure["high"]),
    )
    return [Advice(NOTE, words.say("A rough figure"), text)]


def _near(points: Points, step: float) -> float | None:
    """The mean training loss of the steps around one: single batches jump."""
    if not points:
        return None
    span = max(1.0, points[-1][0] / 20)
    close = [loss for at, loss in points if step - span < at <= step]
    return sum(close) / len(close) if close else None


def _figures(evaluation: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = evaluation.get("metrics", {}).get(name, {}).get("figures", {})
    return found


def _difference(evaluation: dict[str, Any], name: str, part: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (
        evaluation.get("metrics", {}).get(name, {}).get("differences", {}).get(part)
    )
    return found


def _gain(name: str, difference: dict[str, Any]) -> tuple[float, float]:
    """The interval of how much better the adapter is: above zero is better, whatever the metric."""
    low, high = difference["low"], difference["high"]
    return (-high, -low) if name in LOWER_IS_BETTER else (low, high)


def _change(name: str, evaluation: dict[str, Any], words: Words) -> str:
    before, after = (words.figure(name, evaluation[part][name]) for part in (BASE, ADAPTER))
    return f"{words.metric(name)} {before} → {after}"
