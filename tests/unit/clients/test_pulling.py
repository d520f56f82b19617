"""What a pull shows: bars on a terminal, a few lines in a log, nothing to scripts."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from llamaleon_clients.errors import ClientError
from llamaleon_clients.pulling import Bars, Lines, Silent, follow, pull_display

MB = 10**6


def steps(*completed: int) -> list[dict[str, Any]]:
    file = {"file": "folder/tiny-Q8_0.gguf", "digest": "sha256:ab", "total": 10 * MB}
    return [
        {"status": "pulling manifest", "note": "Q8_0 [10 MB] fits in memory."},
        *({"status": "pulling ab", **file, "completed": count * MB} for count in completed),
        {"status": "writing manifest"},
        {"status": "success", "model": "o/r:Q8_0"},
    ]


def test_lines_now_and_then() -> None:
    out = io.StringIO()
    times = iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0])
    display = Lines(Console(file=out, width=40), clock=lambda: next(times, 8.0))
    with display:
        done = follow(iter(steps(0, 1, 6, 10, 10)), display)
    assert done == {"status": "success", "model": "o/r:Q8_0"}
    assert out.getvalue().splitlines() == [
        "Q8_0 [10 MB] fits in memory.",
        "folder/tiny-Q8_0.gguf: 0 B of 10.0 MB",
        "folder/tiny-Q8_0.gguf: 6.0 MB of 10.0 MB",
        "folder/tiny-Q8_0.gguf: 10.0 MB of 10.0 MB",
    ]


def test_a_bar_for_each_file() -> None:
    out = io.StringIO()
    display = Bars(Console(file=out, width=100, force_terminal=True, highlight=False))
    with display:
        follow(iter(steps(0, 5, 10)), display)
    shown = out.getvalue()
    assert "Q8_0 [10 MB] fits in memory." in shown
    assert "tiny-Q8_0.gguf" in shown
    assert "10.0/10.0 MB" in shown


def test_a_bar_of_80_columns_is_one_line() -> None:
    out = io.StringIO()
    display = Bars(Console(file=out, width=80, force_terminal=True, no_color=True, highlight=False))
    name = "folder/a-long-name-of-a-model-with-many-words-00001-of-00004-Q4_K_M.gguf"
    with display:
        for count in (1, 2, 3):
            step = {"status": "pulling", "file": name, "digest": "a", "total": 123 * 10**9}
            display.update({**step, "completed": count * 12 * 10**9})
    last = re.sub(r"\x1b\[[\d;?]*\w", "", out.getvalue().replace("\r", "\n")).strip().splitlines()[-1]
    assert len(last) <= 80
    assert last.startswith("a-long-name-of-a")
    assert "Q4_K_M.gguf" in last
    assert "36.0/123.0 GB" in last


def test_which_display() -> None:
    assert isinstance(pull_display(quiet=True), Silent)
    assert isinstance(pull_display(console=Console(file=io.StringIO())), Lines)
    assert isinstance(pull_display(console=Console(file=io.StringIO(), force_terminal=True)), Bars)


def test_a_stream_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ClientError, match="pull it again"):
        follow(iter(steps(0, 5)[:-1]), Silent())
