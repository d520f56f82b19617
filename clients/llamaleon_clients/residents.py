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
from llamaleon_clients.words import say

RIGHT = range(2, 6)  # the columns of numbers
GAP = 3  # columns between cells
LEAST_NAME = 12  # columns of the first cell, however narrow the terminal
SHOWN_ADAPTERS = 12
SHOWN_ALONE = 4


def print_residents(models: Sequence[Json]) -> None:
    console = wide_console()
    titles = (
        *(say("MODEL"), say("STATE"), say("MEMORY"), say("RUNNING")),
        *(say("WAITING"), say("TOKENS/S"), say("UNLOADS")),
    )
    rows = [_row(model) for model in models]
    widths = _widths([titles, *rows], console.width)
    room = console.width
    # A terminal that is too narrow for all columns breaks the lines itself: rich would break every word.
    whole = max(room, sum(widths) + GAP * len(widths))
    console.width = whole
    console.print(_line(titles, widths, style="bold"))
    for model, row in zip(models, rows, strict=True):
        console.width = whole
        console.print(_line(row, widths))
        console.width = room
        if details := _details(model):
            _print_details(console, details)


def _row(model: Json) -> tuple[str, ...]:
    rates, expires = model.get("rates"), model.get("expires")
    return (
        str(model["name"]),
        _state(model),
        human_bytes(model.get("resident_bytes")),
        str(model["running"]),
        str(model.get("waiting", 0)),
        "-" if rates is None else f"{rates['tokens_out']:.0f}",
        "-" if expires is None else say("in {time}", time=human_seconds(max(0.0, expires - time.time()))),
    )


def _state(model: Json) -> str:
    state = str(model["state"])
    if state == "loading":
        return say("loading {done}", done=f"{model['progress']:.0%}")
    return say("ready") if state == "ready" else state


def _widths(rows: Sequence[tuple[str, ...]], room: int) -> list[int]:
    """As wide as the widest cell; where that is too much, names fold."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + GAP * (len(widths) - 1) - room
    widths[0] = max(min(widths[0], LEAST_NAME), widths[0] - max(0, excess))
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Table:
    made = Table.grid(padding=(0, GAP, 0, 0))
    for number, width in enumerate(widths):
        justify: Literal["left", "right"] = "right" if number in RIGHT else "left"
        made.add_column(width=width, justify=justify, overflow="fold")
    made.add_row(*(escape(cell) for cell in cells), style=style)
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
        room = say("{tokens} tokens of context", tokens=f"{ready['context_tokens']:,}")
        found.append((say("on"), f"{ready['device']}, {room}"))
        if options := _options(ready):
            found.append((say("with"), options))
    if model.get("step") and model["step"]["steps"]:
        found.append((say("passes"), _passes(model["step"], model.get("rates"))))
    if bank := model.get("bank"):
        found += _bank(bank)
        inside = {one["key"] for one in bank["hot"]}
        if waiting := [_name(a) for a in model["adapters"] if a["pinned"] and a["key"] not in inside]:
            found.append((say("pinned"), say("{names} (not in the bank yet)", names=", ".join(waiting))))
    if (prefix := model.get("prefix")) and prefix["hit_rate"] is not None:
        found.append((say("cache"), _cache(prefix, model["kv"])))
    return found


def _options(ready: Json) -> str:
    """How the engine was loaded; an older server does not say."""
    if not ready.get("kv_tokens"):
        return ""
    kinds = list(dict.fromkeys([ready["kv_type_k"], ready["kv_type_v"]]))
    parts = [
        say("{layers} layers on the GPU", layers=ready["gpu_layers"])
        if ready["gpu_layers"]
        else say("{threads} threads", threads=ready["threads"]),
        say(
            "a cache of {tokens} tokens in {kinds} ({size})",
            tokens=human_count(ready["kv_tokens"]),
            kinds="/".join(kinds),
            size=human_bytes(ready["kv_bytes"]),
        ),
        *[say("flash attention")] * bool(ready.get("flash_attention")),
        *(f"{name} {value}" for name, value in ready["rope"].items()),
    ]
    return ", ".join(parts)


def _passes(step: Json, rates: Json | None) -> str:
    parts = [
        say(
            "{mean} ms each (p99 {p99} ms)",
            mean=f"{step['mean_s'] * 1000:.0f}",
            p99=f"{step['p99_s'] * 1000:.0f}",
        ),
        say(
            "{sequences} sequences and {adapters} adapters in one",
            sequences=f"{step['sequences_mean']:.1f}",
            adapters=f"{step['adapters_mean']:.1f}",
        ),
    ]
    if rates and rates["tokens_in"] >= 1:
        parts.append(say("{rate} prompt tokens/s", rate=f"{rates['tokens_in']:.0f}"))
    if step["drafted_tokens"]:
        right = step["accepted_tokens"] / step["drafted_tokens"]
        guessed = human_count(step["drafted_tokens"])
        parts.append(say("{share} of {count} guessed tokens right", share=f"{right:.0%}", count=guessed))
    return ", ".join(parts)


def _bank(bank: Json) -> list[tuple[str, str]]:
    found = []
    if bank["total_ranks"]:
        found.append((say("bank"), ", ".join(_held(bank))))
    if bank["hot"]:
        found.append(("", _hot(bank["hot"])))
    if not bank["mixing"] and bank["reason"]:
        found.append((say("bank"), say("adapters take turns: {reason}", reason=bank["reason"])))
    special = [alone for alone in bank["alone"] if alone["reason"] != bank["reason"]]
    for alone in special[:SHOWN_ALONE]:
        found.append((say("alone"), f"{_name(alone)}: {alone['reason']}"))
    if (more := len(special) - SHOWN_ALONE) > 0:
        found.append((say("alone"), say("{count} more", count=more)))
    return found


def _held(bank: Json) -> list[str]:
    """Where the adapters are: in the bank, in RAM, on disk."""
    held = [say("{used} of {total} ranks", used=bank["used_ranks"], total=bank["total_ranks"])]
    size = human_bytes(bank["warm_bytes"])
    others = bank["warm_adapters"] - len(bank["hot"])
    if others == 1:
        held.append(say("1 more adapter in RAM ({size} in all)", size=size))
    elif others:
        held.append(say("{count} more adapters in RAM ({size} in all)", count=others, size=size))
    if bank["cold_adapters"]:
        held.append(say("{count} on disk", count=bank["cold_adapters"]))
    return held


def _hot(hot: Sequence[Json]) -> str:
    """Pinned ones and those in use first."""
    ordered = sorted(hot, key=lambda one: (not one["pinned"], -one["users"]))
    shown = []
    for one in ordered[:SHOWN_ADAPTERS]:
        marks = [say("pinned")] * one["pinned"]
        marks += [say("{count} running", count=one["users"])] * bool(one["users"])
        shown.append(_name(one) + (f" ({', '.join(marks)})" if marks else ""))
    if (more := len(ordered) - SHOWN_ADAPTERS) > 0:
        shown.append(say("{count} more", count=more))
    return ", ".join(shown)


def _name(adapter: Json) -> str:
    """Content that no name stands for any more is called by its hash."""
    return str(adapter["name"] or adapter["key"][:12])


def _cache(prefix: Json, kv: Json) -> str:
    parts = [say("{share} of the prompt tokens found", share=f"{prefix['hit_rate']:.0%}")]
    if prefix["prefixes"]:
        tokens = human_count(prefix["tokens"])
        parts.append(say("{count} prefixes of {tokens} tokens", count=prefix["prefixes"], tokens=tokens))
    if prefix["stored"]:
        size = human_bytes(prefix["stored_bytes"])
        parts.append(say("{count} more in RAM ({size})", count=prefix["stored"], size=size))
    if kv["total_tokens"]:
        used = f"{kv['used_tokens'] / kv['total_tokens']:.0%}"
        cells = human_count(kv["total_tokens"])
        parts.append(say("{share} of {count} cells in use", share=used, count=cells))
    return ", ".join(parts)
