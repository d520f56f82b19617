"""Whether an adapter is good enough to be deployed: what was asked of it on the held-out rows, in words."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

NO_GATE = "none"
_NAMES = {
    "preference": "Liked answer likelier",
    "valid_json": "Valid JSON",
    "json_equal": "Equal as JSON",
    "bleu": "BLEU",
    "chrf": "chrF",
    "macro_f1": "Macro F1",
    "field_f1": "Field F1",
    "rouge_1": "ROUGE-1",
    "rouge_l": "ROUGE-L",
}
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
SHARES = frozenset(
    {
        "preference",
        "exact_match",
        "valid_json",
        "json_equal",
        "field_f1",
        "accuracy",
        "macro_f1",
        "rouge_1",
        "rouge_l",
    }
)


class Verdict(Struct, frozen=True):
    """`passed` and why, as a sentence."""

    passed: bool
    why: str


def judge(evaluation: dict[str, Any], resolved: dict[str, Any]) -> Verdict:
    """By `gate_metric` and `gate_margin` of the job's hyperparameters, if they were given.

    The adapter may be worse than the base by up to the margin (in the metric's own unit, 0 unless given); a
    negative margin asks that it be better by as much. Without a metric it is the loss, or for preference
    rows the share of pairs whose liked answer is likelier: learning preferences may cost likelihood.
    """
    before, after = evaluation["base"], evaluation["adapter"]
    usual = "preference" if "preference" in after else "loss"
    asked = resolved.get("gate_metric") or usual
    if asked == NO_GATE:
        return Verdict(True, "No figure was asked of the adapter.")
    name, instead = asked, ""
    if before.get(asked) is None:
        name, instead = usual, f"{asked} does not apply to these rows, so {usual} decides. "
    if before.get(name) is None:
        return Verdict(True, f"{instead}There is no {name} to judge by.")
    if after.get(name) is None:  # on the same rows: what it sums up is not finite
        return Verdict(False, f"{instead}The adapter's {name} on held-out rows is not a number.")
    margin = float(resolved.get("gate_margin") or 0.0)
    worse = after[name] - before[name] if name in LOWER_IS_BETTER else before[name] - after[name]
    figures = f"{name} {shown(name, after[name])} against {shown(name, before[name])} of the base"
    if not worse <= margin:  # also where one of them is not a number
        return Verdict(False, f"{instead}{_missed(margin)}: {figures}.")
    return Verdict(True, f"{instead}{figures}.")


def named(metric: str) -> str:
    """For people.

    >>> named("exact_match"), named("chrf")
    ('Exact match', 'chrF')
    """
    return _NAMES.get(metric, metric.replace("_", " ").capitalize())


def shown(name: str, value: float) -> str:
    """
    >>> shown("accuracy", 0.912), shown("loss", 1.23456), shown("bleu", 31.25)
    ('91.2%', '1.2346', '31.2')
    """
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:.4f}" if name == "loss" else f"{value:,.1f}"


def comparison(evaluation: dict[str, Any]) -> str:
    """`loss 2.1000 -> 0.3000, exact_match 0.0% -> 92.0% (base -> adapter)`"""
    before, after = evaluation["base"], evaluation["adapter"]
    told = ["loss", "preference", "exact_match", "valid_json", evaluation.get("main", "loss")]
    names = [name for name in dict.fromkeys(told) if None not in (before.get(name), after.get(name))]
    parts = [f"{name} {shown(name, before[name])} -> {shown(name, after[name])}" for name in names]
    return ", ".join(parts) + " (base -> adapter)"


def _missed(margin: float) -> str:
    if margin < 0:
        return f"On held-out rows the adapter is not better than the base by {-margin:g}"
    more = f" by more than {margin:g}" if margin else ""
    return f"On held-out rows the adapter is worse than the base{more}"
