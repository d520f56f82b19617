"""An evaluation as the rows and cells of the report's tables: everything is text here, nothing is markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaleon_server.evaluation.differences import cut, marked
from llamaleon_server.evaluation.gate import LOWER_IS_BETTER, SHARES
from llamaleon_server.evaluation.rows import ADAPTER, BASE, FEW_SHOT, Answered
from llamaleon_server.evaluation.words import ENGLISH, Words

EXAMPLES = 6
WORSE_SHOWN = 8
CLEARLY = 0.005  # how much lower a row's score (0 to 1) or its loss's share must be, to count as worse
PROMPT_CHARACTERS = 900

Json = dict[str, Any]


def parts_of(evaluation: Json, words: Words = ENGLISH) -> list[Json]:
    """The models in the order of the columns."""
    shots = evaluation.get(FEW_SHOT, {}).get("shots", 0)
    names = {
        BASE: words.say("base"),
        FEW_SHOT: words.say("base, {shots} examples", shots=shots),
        ADAPTER: words.say("adapter"),
    }
    return [{"key": key, "name": name} for key, name in names.items() if key in evaluation]


def figures(evaluation: Json, parts: Sequence[Json], words: Words = ENGLISH) -> list[Json]:
    rows = []
    for name, metric in evaluation.get("metrics", {}).items():
        found = [metric["figures"].get(part["key"]) for part in parts]
        rows.append(
            {
                "name": words.metric(name),
                "rule": words.say("applies to: {rule}", rule=words.say(metric["rule"])),
                "arrow": "↓" if name in LOWER_IS_BETTER else "↑",
                "cells": [_cell(name, figure, words) for figure in found],
                "difference": _difference(name, metric["differences"].get(BASE), words),
            }
        )
    return rows


def _cell(name: str, figure: Json | None, words: Words) -> Json | None:
    if figure is None:
        return None
    low, high = figure.get("low"), figure.get("high")
    interval = ""
    if low is not None and high is not None:
        interval = words.say("{low} to {high}", low=words.figure(name, low), high=words.figure(name, high))
    return {"value": words.figure(name, figure["value"]), "range": interval}


def _difference(name: str, figure: Json | None, words: Words) -> Json | None:
    if figure is None:
        return None
    low, high = figure.get("low"), figure.get("high")
    made = {"value": _signed(name, figure["value"], words), "range": "", "how": ""}
    if low is None or high is None:
        return made
    ends = (_signed(name, end, words).replace(" pp", "") for end in (low, high))
    made["range"] = words.say("{low} to {high}", **dict(zip(("low", "high"), ends, strict=True)))
    if low > 0 or high < 0:
        better = (high < 0) if name in LOWER_IS_BETTER else (low > 0)
        made["how"] = "clear better" if better else "clear worse"
    return made


def _signed(name: str, value: float, words: Words) -> str:
    if name in SHARES:
        written = f"{100 * value:+.1f} pp"
    else:
        written = f"{value:+.4f}" if name == "loss" else f"{value:+,.1f}"
    return words.number(written).replace("-", "−")


def confusion(evaluation: Json, parts: Sequence[Json], words: Words = ENGLISH) -> list[Json]:
    made = []
    for part in parts:
        found = evaluation.get("confusion", {}).get(part["key"])
        if found is not None:
            rows = [
                {"label": label, "cells": _heat(at, counts)}
                for at, (label, counts) in enumerate(zip(found["labels"], found["counts"], strict=True))
            ]
            others = [words.say(name) for name in found["answers"][len(found["labels"]) :]]
            made.append({**part, "answers": [*found["labels"], *others], "rows": rows})
    return made


def _heat(right: int, counts: Sequence[int]) -> list[Json]:
    total = max(sum(counts), 1)
    return [
        {"count": count, "right": at == right, "share": round(65 * count / total)}
        for at, count in enumerate(counts)
    ]


def fields(evaluation: Json, parts: Sequence[Json], words: Words = ENGLISH) -> list[Json]:
    return [
        {
            "name": field["field"],
            "wanted": field["wanted"],
            "cells": [_field(field[part["key"]], words) for part in parts if part["key"] in field],
        }
        for field in evaluation.get("fields", ())
    ]


def _field(found: Json, words: Words) -> Json:
    f1, precision, recall = (words.number(f"{found[name]:.1%}") for name in ("f1", "precision", "recall"))
    return {"f1": f1, "detail": f"{precision} / {recall}"}


def examples(answers: Sequence[Answered], parts: Sequence[Json], words: Words = ENGLISH) -> list[Json]:
    """Rows spread over all that were answered, rather than the first ones, which may be alike."""
    asked = [row for row in answers if ADAPTER in row.answers]
    step = max(1, len(asked) // EXAMPLES)
    return [_row(row, parts, words) for row in asked[::step][:EXAMPLES]]


def worse(answers: Sequence[Answered], parts: Sequence[Json], kind: str, words: Words = ENGLISH) -> Json:
    """Rows where the adapter's answer is worse than the base's, the worst first."""
    asked = [row for row in answers if ADAPTER in row.scores and BASE in row.scores]
    lost = [row for row in asked if row.scores[BASE] - row.scores[ADAPTER] > CLEARLY]
    lost.sort(key=lambda row: row.scores[ADAPTER] - row.scores[BASE])
    scored = [row for row in answers if ADAPTER in row.losses and BASE in row.losses]
    dearer = sum(row.losses[ADAPTER] > row.losses[BASE] * (1 + CLEARLY) for row in scored)
    say = words.say
    by = {
        "json": say("by its fields"),
        "labels": say("another label"),
        "text": say("by its wording, chrF"),
    }.get(kind)
    told = []
    if asked:
        counts = {"lost": len(lost), "rows": len(asked), "by": f" ({by})" if by else ""}
        told.append(
            say("In {lost} of {rows} rows the adapter's answer is worse than the base's{by}.", **counts)
        )
    if len(lost) > WORSE_SHOWN:
        told.append(say("The {count} worst are shown.", count=WORSE_SHOWN))
    counted = {"dearer": dearer, "rows": len(scored)}
    told.append(say("The reference became less likely in {dearer} of {rows} rows.", **counted))
    return {"told": " ".join(told), "rows": [_row(row, parts, words) for row in lost[:WORSE_SHOWN]]}


def _row(row: Answered, parts: Sequence[Json], words: Words) -> Json:
    return {
        "line": row.line,
        "prompt": cut(row.prompt.strip(), words, PROMPT_CHARACTERS),
        "reference": cut((row.reference or "").strip(), words),
        "answers": [
            {
                **part,
                "pieces": marked(row.answers[part["key"]], row.reference or "", words)
                if row.answers[part["key"]].strip()
                else [],
                "score": _score(row, part["key"], words),
            }
            for part in parts
            if part["key"] in row.answers
        ],
    }


def _score(row: Answered, key: str, words: Words) -> str:
    if row.answers[key].strip() == (row.reference or "").strip():
        return words.say("exact")
    return words.number(f"{row.scores[key]:.0%}") if key in row.scores else ""
