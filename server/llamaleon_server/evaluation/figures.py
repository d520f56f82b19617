"""An evaluation as the rows and cells of the report's tables: everything is text here, nothing is markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaleon_server.evaluation.differences import cut, marked
from llamaleon_server.evaluation.gate import LOWER_IS_BETTER, SHARES, named, shown
from llamaleon_server.evaluation.rows import ADAPTER, BASE, FEW_SHOT, Answered

EXAMPLES = 6
WORSE_SHOWN = 8
CLEARLY = 0.005  # how much lower a row's score (0 to 1) or its loss's share must be, to count as worse
PROMPT_CHARACTERS = 900

Json = dict[str, Any]


def parts_of(evaluation: Json) -> list[Json]:
    """The models in the order of the columns."""
    shots = evaluation.get(FEW_SHOT, {}).get("shots", 0)
    names = {BASE: "base", FEW_SHOT: f"base, {shots} examples", ADAPTER: "adapter"}
    return [{"key": key, "name": name} for key, name in names.items() if key in evaluation]


def figures(evaluation: Json, parts: Sequence[Json]) -> list[Json]:
    rows = []
    for name, metric in evaluation.get("metrics", {}).items():
        found = [metric["figures"].get(part["key"]) for part in parts]
        rows.append(
            {
                "name": named(name),
                "rule": f"applies to: {metric['rule']}",
                "arrow": "↓" if name in LOWER_IS_BETTER else "↑",
                "cells": [_cell(name, figure) for figure in found],
                "difference": _difference(name, metric["differences"].get(BASE)),
            }
        )
    return rows


def _cell(name: str, figure: Json | None) -> Json | None:
    if figure is None:
        return None
    low, high = figure.get("low"), figure.get("high")
    interval = "" if low is None or high is None else f"{shown(name, low)} to {shown(name, high)}"
    return {"value": shown(name, figure["value"]), "range": interval}


def _difference(name: str, figure: Json | None) -> Json | None:
    if figure is None:
        return None
    low, high = figure.get("low"), figure.get("high")
    made = {"value": _signed(name, figure["value"]), "range": "", "how": ""}
    if low is None or high is None:
        return made
    made["range"] = f"{_signed(name, low)} to {_signed(name, high)}".replace(" pp", "")
    if low > 0 or high < 0:
        better = (high < 0) if name in LOWER_IS_BETTER else (low > 0)
        made["how"] = "clear better" if better else "clear worse"
    return made


def _signed(name: str, value: float) -> str:
    if name in SHARES:
        return f"{100 * value:+.1f} pp".replace("-", "−")
    return (f"{value:+.4f}" if name == "loss" else f"{value:+,.1f}").replace("-", "−")


def confusion(evaluation: Json, parts: Sequence[Json]) -> list[Json]:
    made = []
    for part in parts:
        found = evaluation.get("confusion", {}).get(part["key"])
        if found is not None:
            rows = [
                {"label": label, "cells": _heat(at, counts)}
                for at, (label, counts) in enumerate(zip(found["labels"], found["counts"], strict=True))
            ]
            made.append({**part, "answers": found["answers"], "rows": rows})
    return made


def _heat(right: int, counts: Sequence[int]) -> list[Json]:
    total = max(sum(counts), 1)
    return [
        {"count": count, "right": at == right, "share": round(65 * count / total)}
        for at, count in enumerate(counts)
    ]


def fields(evaluation: Json, parts: Sequence[Json]) -> list[Json]:
    return [
        {
            "name": field["field"],
            "wanted": field["wanted"],
            "cells": [_field(field[part["key"]]) for part in parts if part["key"] in field],
        }
        for field in evaluation.get("fields", ())
    ]


def _field(found: Json) -> Json:
    return {"f1": f"{found['f1']:.1%}", "detail": f"{found['precision']:.1%} / {found['recall']:.1%}"}


def examples(answers: Sequence[Answered], parts: Sequence[Json]) -> list[Json]:
    """Rows spread over all that were answered, rather than the first ones, which may be alike."""
    asked = [row for row in answers if ADAPTER in row.answers]
    step = max(1, len(asked) // EXAMPLES)
    return [_row(row, parts) for row in asked[::step][:EXAMPLES]]


def worse(answers: Sequence[Answered], parts: Sequence[Json], kind: str) -> Json:
    """Rows where the adapter's answer is worse than the base's, the worst first."""
    asked = [row for row in answers if ADAPTER in row.scores and BASE in row.scores]
    lost = [row for row in asked if row.scores[BASE] - row.scores[ADAPTER] > CLEARLY]
    lost.sort(key=lambda row: row.scores[ADAPTER] - row.scores[BASE])
    scored = [row for row in answers if ADAPTER in row.losses and BASE in row.losses]
    dearer = sum(row.losses[ADAPTER] > row.losses[BASE] * (1 + CLEARLY) for row in scored)
    by = {"json": " (by its fields)", "labels": " (another label)", "text": " (by its wording, chrF)"}
    told = ""
    if asked:
        rows = f"In {len(lost)} of {len(asked)} rows"
        told = f"{rows} the adapter's answer is worse than the base's{by.get(kind, '')}. "
    if len(lost) > WORSE_SHOWN:
        told += f"The {WORSE_SHOWN} worst are shown. "
    told += f"The reference became less likely in {dearer} of {len(scored)} rows."
    return {"told": told, "rows": [_row(row, parts) for row in lost[:WORSE_SHOWN]]}


def _row(row: Answered, parts: Sequence[Json]) -> Json:
    return {
        "line": row.line,
        "prompt": cut(row.prompt.strip(), PROMPT_CHARACTERS),
        "reference": cut((row.reference or "").strip()),
        "answers": [
            {
                **part,
                "pieces": marked(row.answers[part["key"]], row.reference or "")
                if row.answers[part["key"]].strip()
                else [],
                "score": _score(row, part["key"]),
            }
            for part in parts
            if part["key"] in row.answers
        ],
    }


def _score(row: Answered, key: str) -> str:
    if row.answers[key].strip() == (row.reference or "").strip():
        return "exact"
    return f"{row.scores[key]:.0%}" if key in row.scores else ""
