"""What the terminal shows: consoles, tables, and numbers written for people."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamaleon_clients.words import say

PIPE_WIDTH = 1000  # columns


def plain_console(**arguments: Any) -> Console:
    """One of rich's that shows texts as they are: `ft:nano:local:key:1` has no emoji in it.

    Made where it is used, because tests replace `sys.stdout`.
    """
    return Console(highlight=False, emoji=False, **arguments)


def out() -> Console:
    """Standard output."""
    return plain_console(soft_wrap=True)


def err() -> Console:
    """Standard error: words are wrapped at a terminal; in a pipe a message stays one line."""
    made = plain_console(stderr=True)
    made.soft_wrap = not made.is_terminal
    return made


def note(message: str) -> None:
    """A remark beside the result: standard error, so that pipes stay clean."""
    err().print(f"[dim]{escape(message)}[/dim]")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_error_json(body: Any) -> None:
    """One line, the last on standard error: progress and notes may stand before it."""
    sys.stderr.write(json.dumps(body, ensure_ascii=False) + "\n")


def table(*columns: str) -> Table:
    """Plain columns; names that end in `>` are right-aligned (numbers)."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        right = column.endswith(">")
        made.add_column(column.removesuffix(">"), justify="right" if right else "left", overflow="fold")
    return made


def wide_console() -> Console:
    """For tables: folded to the terminal's width; in a pipe every row stays one line."""
    terminal = plain_console()
    return terminal if terminal.is_terminal else plain_console(width=PIPE_WIDTH)


def print_table(made: Table) -> None:
    """Every row is one line, also where the terminal breaks it: a folded name could not be copied.

    Cells are texts, never markup: what a model wrote may hold `[/b]`.
    """
    plain_console(width=PIPE_WIDTH, markup=False).print(made)


def human_bytes(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: GB takes every size")


def human_seconds(seconds: float | None) -> str:
    """`9 s`, `1:05`, `2:03:04`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def human_count(number: float) -> str:
    """`950`, `9.5k`, `12k`, `1.2M`."""
    if number < 1000:
        return f"{number:.0f}"
    for unit in ("k", "M"):
        number /= 1000
        if number < 1000 or unit == "M":
            return f"{number:.1f}{unit}" if number < 10 else f"{number:.0f}{unit}"
    raise AssertionError("unreachable: M takes every size")


def ago(created: int | None) -> str:
    if not created:
        return "-"
    seconds = max(0.0, time.time() - created)
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return say("{time} ago", time=f"{seconds / size:.0f} {unit}")
    return say("{days} days ago", days=f"{seconds / 86400:.0f}")
