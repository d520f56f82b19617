from __future__ import annotations

import io

from rich.console import Console

from llamaleon_clients.progress import LiveDisplay, PlainDisplay, bar, figures, progress_display
from llamaleon_clients.training import Progress


def halfway() -> Progress:
    progress = Progress(status="running")
    progress.observe(
        {
            "data": {
                "step": 75,
                "steps": 150,
                "train_loss": 0.51234,
                "tokens_per_s": 12345.6,
                "memory_bytes": 412_000_000,
                "eta_s": 65.2,
            }
        }
    )
    progress.observe({"data": {"step": 75, "valid_loss": 0.25}})
    return progress


def test_figures_are_those_that_are_known() -> None:
    assert figures(halfway()) == [
        "75/150",
        "loss 0.512",
        "held-out 0.250",
        "12k tok/s",
        "412 MB",
        "1:05 left",
    ]
    assert figures(Progress(step=3)) == ["step 3"]


def test_bar_fills_from_nothing_to_everything() -> None:
    assert bar(0, 4) == "    "
    assert bar(0.5, 4) == "██  "
    assert bar(0.53125, 4) == "██▏ "
    assert bar(1, 4) == "████"
    assert bar(1.7, 4) == "████"


def test_live_line_fits_eighty_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    display = LiveDisplay(console)

    line = display._line(halfway()).plain

    assert line.startswith("▕")
    assert line.endswith("75/150  loss 0.512  held-out 0.250  12k tok/s  412 MB  1:05 left")
    assert len(line) <= 80


def test_live_line_of_a_narrow_terminal_is_figures_only() -> None:
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=60))

    assert display._line(halfway()).plain.startswith("75/150")


def test_live_display_keeps_messages_and_removes_the_line() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, highlight=False)

    with LiveDisplay(console) as display:
        display.update(Progress(status="validating_files"))
        display.message("warn", "Sólo 12 filas [pocas]")
        display.update(halfway())
        display.update(Progress(status="running", step=9, steps=9))

    assert "checking parity" in written.getvalue()
    assert "validating files" in written.getvalue()
    assert "Sólo 12 filas [pocas]" in written.getvalue()
    assert "\x1b[2K" in written.getvalue(), "the live line is erased at the end"


def test_plain_lines_are_few() -> None:
    now = [0.0]
    written = io.StringIO()
    display = PlainDisplay(Console(file=written, width=80), clock=lambda: now[0])

    for step in range(1, 101):
        now[0] += 0.1
        display.update(Progress(step=step, steps=100, train_loss=1 / step))

    lines = written.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["1", "52", "100"]


def test_a_new_held_out_loss_is_always_a_plain_line() -> None:
    written = io.StringIO()
    display = PlainDisplay(Console(file=written, width=80), clock=lambda: 0.0)

    display.update(Progress(step=1, steps=9))
    display.update(Progress(step=2, steps=9))
    display.update(Progress(step=2, steps=9, valid_loss=0.5))

    assert written.getvalue().splitlines() == ["1/9", "2/9  held-out 0.500"]


def test_the_display_follows_the_terminal() -> None:
    assert isinstance(progress_display(Console(file=io.StringIO())), PlainDisplay)
    assert isinstance(progress_display(Console(file=io.StringIO(), force_terminal=True)), LiveDisplay)
