"""docs/benchmarks.json, the raw figures, and docs/benchmarks.md, which is made from it."""

from __future__ import annotations

import json
from typing import Any

from tests.bench import machine
from tests.bench.figures import Figure
from tests.data import REPOSITORY

DOCS = REPOSITORY / "docs"
SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Against other servers": (
        "Same GGUF, threads, context and prompts; real HTTP, streaming; one server asked at a time. Each "
        "ratio is the median of paired rounds, in brackets both sides' medians and the range. Tokens per "
        "second of several streams include their short prompts. Speculation is off: random weights fall "
        "into loops that it would guess right. llama-server computes requests for different adapters one "
        "after the other: mixing them wins at most what eight streams of the base win over its adapters, "
        "which on two cores is less than the goal (the rows above each other show both).",
        ("peers-text", "peers-q8_0", "peers-q4_k_m"),
    ),
    "On a GPU": (
        "As above with a 7 B-shaped Q4_K_M model, all layers offloaded (`python -m tests.bench --gpu`).",
        ("peers-gpu",),
    ),
    "The engine": (
        "",
        ("arrival", "flow", "overhead", "waiting", "sampling", "speculation", "constrained", "soak"),
    ),
    "Training": (
        "Beside TRL's SFTTrainer with peft: processes in turns, the same model, rows, batch, precision and "
        "LoRA settings (`make bench-train`).",
        ("train", "estimates", "compile"),
    ),
    "The product": (
        "The demonstration prints its own figures (`make demo`).",
        ("process", "streams", "adapters", "convert", "parity", "parity-families"),
    ),
    "Training on the blocks that serve": (
        "`base_weights`: docs/training.md says what each is.",
        ("qlora", "qlora-outliers", "qlora-memory", "seven-billion"),
    ),
}
UNTESTED = "Not run: no machine with a GPU was at hand. Nothing here says how mixing performs on one."


def write(measure: str, figures: list[Figure], *, gpu: bool = False) -> None:
    """Put one measure's figures in the place of its last ones, and make the page again."""
    path = DOCS / "benchmarks.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = kept.get("measures", {})
    entry = {"machine": machine.describe(gpu=gpu), "figures": [figure.as_dict() for figure in figures]}
    raw = {"measures": {**measured, measure: entry}}
    path.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (DOCS / "benchmarks.md").write_text(page(raw["measures"]), encoding="utf-8")


def page(measured: dict[str, Any]) -> str:
    machines = list(dict.fromkeys(entry["machine"] for entry in measured.values()))
    lines = ["# Figures", "", "Written by `make bench`; run it again on your machine.", ""]
    lines += [f"Machine: {machine}." for machine in machines[-1:]]
    for title, (text, names) in SECTIONS.items():
        present = [measured[name] for name in names if name in measured]
        lines += ["", f"## {title}", ""]
        if text:
            lines += [text, ""]
        if not present:
            lines.append(UNTESTED if title == "On a GPU" else "Not run yet.")
            continue
        lines += _table([figure for entry in present for figure in entry["figures"]])
        others = {entry["machine"] for entry in present} - set(machines[-1:])
        lines += [f"\nMeasured on: {machine}." for machine in sorted(others)]
    return "\n".join(lines) + "\n"


def _table(figures: list[dict[str, Any]]) -> list[str]:
    rows = [f"| {one['what']} | {one['measured']} | {one['goal'] or ''} |" for one in figures]
    details = [f"\n{one['detail'].rstrip()}" for one in figures if one.get("detail")]
    return ["| what | measured | goal |", "|---|--:|--:|", *rows, *details]
