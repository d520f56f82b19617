"""A job's progress on standard error: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from llamaleon_clients.console import human_bytes, human_count, human_seconds, plain_console
from llamaleon_clients.training import Display, Progress
from llamaleon_clients.words import say

PLAIN_EVERY_S = 5.0
BAR_WIDTHS = range(4, 31)  # columns: fewer show nothing, more say nothing
WARNINGS = ("warn", "warning")
STYLES = {**dict.fromkeys(WARNINGS, "yellow"), "error": "red"}


class ClosableDisplay(Display, Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def progress_display(console: Console | None = None) -> ClosableDisplay:
    console = console or plain_console(stderr=True)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def figures(progress: Progress) -> list[str]:
    """The parts of the progress line that are known, in reading order."""
    parts = [
        f"{progress.step}/{progress.steps}" if progress.steps else say("step {step}", step=progress.step)
    ]
    if progress.train_loss is not None:
        parts.append(say("loss {loss}", loss=f"{progress.train_loss:.3f}"))
    if progress.valid_loss is not None:
        parts.append(say("held-out {loss}", loss=f"{progress.valid_loss:.3f}"))
    if progress.tokens_per_s is not None:
        parts.append(f"{human_count(progress.tokens_per_s)} tok/s")
    if progress.memory_bytes is not None:
        parts.append(human_bytes(progress.memory_bytes))
    if progress.eta_s is not None:
        parts.append(say("{time} left", time=human_seconds(progress.eta_s)))
    return parts


def status(name: str) -> str:
    """A job's status, as the API names it, in words."""
    known = {
        "validating_files": say("validating files"),
        "queued": say("queued"),
        "running": say("running"),
        "paused": say("paused"),
        "succeeded": say("succeeded"),
        "failed": say("failed"),
        "cancelled": say("cancelled"),
    }
    return known.get(name, name.replace("_", " "))


def bar(done: float, width: int) -> str:
    """`width` columns, of which the fraction `done` is filled, in eighths of a column."""
    eighths = round(max(0.0, min(done, 1.0)) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + ("▏▎▍▌▋▊▉"[part - 1] if part else "")).ljust(width)


class LiveDisplay:
    """Messages scroll above; the figures stay on the last line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(self._spinner, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, progress: Progress) -> None:
        if progress.steps and 0 < progress.step < progress.steps:
            self._live.update(self._line(progress))
            return
        trained = progress.step and progress.step == progress.steps
        doing = (
            say("converting, checking parity, comparing with the base")
            if trained
            else status(progress.status)
        )
        self._spinner.update(text=Text(doing, style="cyan"))
        self._live.update(self._spinner)

    def message(self, level: str, text: str) -> None:
        self._console.print(f"[{STYLES.get(level, 'dim')}]{escape(text)}[/]")

    def _line(self, progress: Progress) -> Text:
        assert progress.steps  # the caller has looked
        text = "  ".join(figures(progress))
        width = min(self._console.width - len(text) - 4, BAR_WIDTHS.stop - 1)
        line = Text(no_wrap=True, overflow="ellipsis")
        if width in BAR_WIDTHS:
            line.append("▕" + bar(progress.step / progress.steps, width) + "▏ ", style="cyan")
        return line.append(text)


class PlainDisplay:
    """A line every few seconds, at every new held-out loss, and at the end: for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._printed_at = float("-inf")
        self._printed: tuple[int, float | None] = (0, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def update(self, progress: Progress) -> None:
        now = (progress.step, progress.valid_loss)
        if not progress.step or now == self._printed:
            return
        due = self._clock() - self._printed_at >= PLAIN_EVERY_S
        if due or now[1] != self._printed[1] or progress.step == progress.steps:
            self._printed, self._printed_at = now, self._clock()
            self._console.print("  ".join(figures(progress)), soft_wrap=True)

    def message(self, level: str, text: str) -> None:
        prefix = "" if level == "info" else f"{say('Warning') if level in WARNINGS else say('Error')}: "
        self._console.print(prefix + text, markup=False, soft_wrap=True)
