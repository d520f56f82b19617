"""What the figures of a job mean for who trained: what is wrong with them, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from llamaleon_server.evaluation.gate import LOWER_IS_BETTER, SHARES, named, shown
from llamaleon_server.evaluation.rows import ADAPTER, BASE, FEW_SHOT

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


def advise(evaluation: dict[str, Any], job: Training) -> list[Advice]:
    """The most important first. `evaluation` may be empty: the job has not come so far."""
    found = [
        *_of_the_comparison(evaluation),
        *_of_the_examples(evaluation),
        *_of_the_curves(job),
        *_of_the_rows(evaluation, job),
    ]
    order = (WARNING, GOOD, NOTE)
    return sorted(found, key=lambda one: order.index(one.level))


def _of_the_comparison(evaluation: dict[str, Any]) -> list[Advice]:
    main = evaluation.get("main", "loss")
    difference = _difference(evaluation, main, BASE)
    if difference is None or difference.get("low") is None:
        return []
    change = _change(main, evaluation)
    low, high = _gain(main, difference)
    rows = difference["rows"]
    if low > 0:
        return [
            Advice(GOOD, "Better than the base", f"{change}, and {rows} held-out rows are enough to tell.")
        ]
    if high < 0:
        text = f"{change}. Check that the rows say what you want, then the learning rate and the epochs."
        return [Advice(WARNING, "Worse than the base", text)]
    return [
        Advice(
            WARNING,
            "Too few held-out rows for this claim",
            f"{change}, but with {rows} rows that may be chance: the interval of the difference holds zero. "
            "Hold more rows out (held_out_fraction), or give a validation_file.",
        )
    ]


def _of_the_examples(evaluation: dict[str, Any]) -> list[Advice]:
    main = evaluation.get("main", "loss")
    difference = _difference(evaluation, main, FEW_SHOT)
    if difference is None or difference.get("low") is None:
        return []
    low, high = _gain(main, difference)
    shots = evaluation[FEW_SHOT].get("shots", 0)
    figures = f"{named(main)} {_of(evaluation, FEW_SHOT, main)} against {_of(evaluation, ADAPTER, main)}"
    if high < 0:
        text = f"The base with {shots} examples in its prompt does better than the adapter: {figures}."
        return [Advice(WARNING, "Try prompting first", text)]
    if low <= 0:
        text = (
            f"The base with {shots} examples in its prompt is about as good as the adapter: {figures}. The "
            "adapter saves those tokens in every request; if that does not matter, you may not need it."
        )
        return [Advice(NOTE, "Try prompting first", text)]
    text = f"The base with {shots} examples in its prompt does not get as far: {figures}."
    return [Advice(GOOD, "Prompting alone is not enough", text)]


def _of_the_curves(job: Training) -> list[Advice]:
    held_out = list(job.held_out)
    if len(held_out) < 3:
        return []
    best_step, best = min(held_out, key=lambda point: point[1])
    last_step, last = held_out[-1]
    before, after = _near(job.training, best_step), _near(job.training, last_step)
    if last > ROSE * best and before is not None and after is not None and after < before:
        text = (
            f"The held-out loss was lowest at step {best_step:g} ({best:.4f}) and rose to {last:.4f}, while "
            f"the training loss fell from {before:.4f} to {after:.4f}. Train fewer epochs, keep the best "
            "checkpoint (load_best), stop early (early_stopping_patience), or add rows."
        )
        return [Advice(WARNING, "Over-fitting", text)]
    if last == best and last < STILL_FALLING * held_out[-2][1]:
        text = f"The held-out loss was still falling at the last step ({last:.4f}): more epochs may help."
        return [Advice(NOTE, "Not finished learning", text)]
    return []


def _of_the_rows(evaluation: dict[str, Any], job: Training) -> list[Advice]:
    found = []
    leaks = [warning for warning in job.warnings if any(word in warning for word in LEAKS)]
    if leaks:
        found.append(Advice(WARNING, "Held-out rows were seen in training", " ".join(leaks)))
    if job.train_rows is not None and job.train_rows + (job.valid_rows or 0) < FEW_ROWS:
        rows = job.train_rows + (job.valid_rows or 0)
        text = f"{rows} rows are few: below {FEW_ROWS}, expect an adapter that repeats its rows."
        found.append(Advice(WARNING, "Few rows", text))
    if 0 < evaluation.get("rows", FEW_HELD_OUT) < FEW_HELD_OUT:
        rows = evaluation["rows"]
        text = f"Every figure here is of {rows} held-out rows: read the intervals, not the figures."
        found.append(Advice(NOTE, "Few held-out rows", text))
    main = evaluation.get("main", "loss")
    figure = _figures(evaluation, main).get(ADAPTER, {})
    if main in SHARES and figure.get("low") is not None and figure["high"] - figure["low"] > 2 * WIDE:
        low, high = shown(main, figure["low"]), shown(main, figure["high"])
        text = f"{named(main)} of the adapter is between {low} and {high}."
        found.append(Advice(NOTE, "A rough figure", text))
    others = [
        warning
        for warning in job.warnings
        if warning not in leaks and not warning.startswith("Only ")  # the count of rows is said above
    ]
    found += [Advice(NOTE, "Said while the job ran", warning) for warning in others]
    return found


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


def _of(evaluation: dict[str, Any], part: str, name: str) -> str:
    return shown(name, evaluation[part][name])


def _change(name: str, evaluation: dict[str, Any]) -> str:
    return f"{named(name)} {_of(evaluation, BASE, name)} → {_of(evaluation, ADAPTER, name)}"
