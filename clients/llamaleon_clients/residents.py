"""What `llamaleon ps` prints: a line per model in memory, and under it what its adapters and cache do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from llamaleon_clients.api import Json
from llamaleon_clients.console import human_bytes, human_count, human_seconds, wide_console

HEADER = ("MODEL", "STATE", "MEMORY>", "RUNNING>", "WAITING>", "TOKENS/S>", "UNLOADS")
GAP = 3  # columns between cells
LEAST_NAME = 12  # columns of the first cell, however narrow the terminal
SHOWN_ADAPTERS = 12
SHOWN_ALONE = 4


def print_residents(models: Sequence[Json]) -> None:
    console = wide_console()
    rows = [_row(model) for model in models]
    widths = _widths([tuple(title.removesuffix(">") for title in HEADER), *rows], console.width)
    console.print(_line(HEADER, widths, style="bold"))
    for model, row in zip(models, rows, strict=True):
        console.print(_line(row, widths))
        if details := _details(model):
            _print_details(console, details)


def _row(model: Json) -> tuple[str, ...]:
    state, rates, expires = model["state"], model.get("rates"), model.get("expires")
    if state == "loading":
        state = f"loading {model['progress']:.0%}"
    return (
        str(model["name"]),
        str(state),
        human_bytes(model.get("resident_bytes")),
        str(model["running"]),
        str(model.get("waiting", 0)),
        "-" if rates is None else f"{rates['tokens_out']:.0f}",
        "-" if expires is None else f"in {human_seconds(max(0.0, expires - time.time()))}",
    )


def _widths(rows: Sequence[tuple[str, ...]], room: int) -> list[int]:
    """As wide as the widest cell; where that is too much, names fold."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + GAP * (len(widths) - 1) - room
    widths[0] = max(min(widths[0], LEAST_NAME), widths[0] - max(0, excess))
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Table:
    made = Table.grid(padding=(0, GAP, 0, 0))
    for title, width in zip(HEADER, widths, strict=True):
        justify: Literal["left", "right"] = "right" if title.endswith(">") else "left"
        made.add_column(width=width, justify=justify, overflow="fold")
    made.add_row(*(escape(cell.removesuffix(">")) for cell in cells), style=style)
    return made


def _print_details(console: Console, details: Sequence[tuple[str, str]]) -> None:
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for label, text in details:
        made.add_row(label, escape(text))
    console.print(Padding(made, (0, 0, 0, 2), expand=False))


def _details(model: Json) -> list[tuple[str, str]]:
    """Label and text; only what there is to say."""
    found: list[tuple[str, str]] = []
    ready = model.get("ready")
    if ready:
        found.append(("on", f"{ready['device']}, {ready['context_tokens']:,} tokens of context"))
    if model.get("step") and model["step"]["steps"]:
        found.append(("passes", _passes(model["step"], model.get("rates"))))
    if bank := model.get("bank"):
        found += _bank(bank)
        inside = {one["key"] for one in bank["hot"]}
        if waiting := [_name(a) for a in model["adapters"] if a["pinned"] and a["key"] not in inside]:
            found.append(("pinned", f"{', '.join(waiting)} (not in the bank yet)"))
    if (prefix := model.get("prefix")) and prefix["hit_rate"] is not None:
        found.append(("cache", _cache(prefix, model["kv"])))
    return found


def _passes(step: Json, rates: Json | None) -> str:
    parts = [
        f"{step['mean_s'] * 1000:.0f} ms each (p99 {step['p99_s'] * 1000:.0f} ms)",
        f"{step['sequences_mean']:.1f} sequences and {step['adapters_mean']:.1f} adapters in one",
    ]
    if rates and rates["tokens_in"] >= 1:
        parts.append(f"{rates['tokens_in']:.0f} prompt tokens/s")
    if step["drafted_tokens"]:
        right = step["accepted_tokens"] / step["drafted_tokens"]
        parts.append(f"{right:.0%} of {human_count(step['drafted_tokens'])} guessed tokens right")
    return ", ".join(parts)


def _bank(bank: Json) -> list[tuple[str, str]]:
    found = []
    if bank["total_ranks"]:
        held = [f"{bank['used_ranks']} of {bank['total_ranks']} ranks"]
        if others := bank["warm_adapters"] - len(bank["hot"]):
            held.append(
                f"{others} more adapter{'s' * (others > 1)} in RAM ({human_bytes(bank['warm_bytes'])} in all)"
            )
        if bank["cold_adapters"]:
            held.append(f"{bank['cold_adapters']} on disk")
        found.append(("bank", ", ".join(held)))
    if bank["hot"]:
        found.append(("", _hot(bank["hot"])))
    if not bank["mixing"] and bank["reason"]:
        found.append(("bank", f"adapters take turns: {bank['reason']}"))
    special = [alone for alone in bank["alone"] if alone["reason"] != bank["reason"]]
    for alone in special[:SHOWN_ALONE]:
        found.append(("alone", f"{_name(alone)}: {alone['reason']}"))
    if (more := len(special) - SHOWN_ALONE) > 0:
        found.append(("alone", f"{more} more"))
    return found


def _hot(hot: Sequence[Json]) -> str:
    """Pinned ones and those in use first."""
    ordered = sorted(hot, key=lambda one: (not one["pinned"], -one["users"]))
    shown = []
    for one in ordered[:SHOWN_ADAPTERS]:
        marks = ["pinned"] * one["pinned"] + [f"{one['users']} running"] * bool(one["users"])
        shown.append(_name(one) + (f" ({', '.join(marks)})" if marks else ""))
    if (more := len(ordered) - SHOWN_ADAPTERS) > 0:
        shown.append(f"{more} more")
    return ", ".join(shown)


def _name(adapter: Json) -> str:
    """Content that no name stands for any more is called by its hash."""
    return str(adapter["name"] or adapter["key"][:12])


def _cache(prefix: Json, kv: Json) -> str:
    parts = [f"{prefix['hit_rate']:.0%} of the prompt tokens found"]
    if prefix["prefixes"]:
        parts.append(f"{prefix['prefixes']} prefixes of {human_count(prefix['tokens'])} tokens")
    if prefix["stored"]:
        parts.append(f"{prefix['stored']} more in RAM ({human_bytes(prefix['stored_bytes'])})")
    if kv["total_tokens"]:
        used = kv["used_tokens"] / kv["total_tokens"]
        parts.append(f"{used:.0%} of {human_count(kv['total_tokens'])} cells in use")
    return ", ".join(parts)
