"""A download's progress on standard error: a bar for each file on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from llamaleon_clients.api import Json
from llamaleon_clients.console import human_bytes, plain_console
from llamaleon_clients.errors import ClientError
from llamaleon_clients.words import say

PLAIN_EVERY_S = 5.0
# Columns of a bar's line: a short name, a short bar, and all that is not the name.
LEAST_NAME, LEAST_BAR, FIGURES = 12, 8, 46
SUCCESS = "success"


class Display(Protocol):
    """Where a pull's progress is shown."""

    def update(self, step: Json) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def pull_display(*, quiet: bool = False, console: Console | None = None) -> Display:
    console = console or plain_console(stderr=True)
    if quiet:
        return Silent()
    return Bars(console) if console.is_terminal else Lines(console)


def follow(steps: Iterator[Json], display: Display) -> Json:
    """Show all of them. Returns the last, which has the model's name.

    Raises: ClientError if it broke off.
    """
    for step in steps:
        if step["status"] == SUCCESS:
            return step
        display.update(step)
    raise ClientError(say("the server stopped in the middle; what came is kept: pull it again."))


class Silent:
    """Scripts read the result."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def update(self, step: Json) -> None:
        """Shows nothing."""


class Bars:
    def __init__(self, console: Console) -> None:
        self._room = max(LEAST_NAME, console.width - FIGURES)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=LEAST_BAR)),
            DownloadColumn(table_column=Column(no_wrap=True)),
            TransferSpeedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._looking = console.status(say("looking for the model"))  # until the first file is known

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._looking.stop()
        if self._tasks:
            self._progress.stop()

    def update(self, step: Json) -> None:
        if note := step.get("note"):
            self._progress.console.print(f"[dim]{escape(note)}[/dim]")
        digest, completed = step.get("digest"), step.get("completed") or 0
        if digest is None:
            return
        if not self._tasks:
            self._looking.stop()
            self._progress.start()
        if digest not in self._tasks:
            name = _in_short(str(step.get("file") or digest).rpartition("/")[2], self._room)
            self._tasks[digest] = self._progress.add_task(escape(name), total=step.get("total"))
        self._progress.update(self._tasks[digest], completed=completed)


def _in_short(name: str, room: int) -> str:
    """Without its middle, if it is longer than `room`: the ends tell files apart, e.g. `-Q8_0.gguf`."""
    if len(name) <= room:
        return name
    end = room // 2
    return f"{name[: room - end - 1]}…{name[-end:]}"


class Lines:
    """A line every few seconds and at the end of each file: for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._printed_at = float("-inf")
        self._whole: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    def update(self, step: Json) -> None:
        if note := step.get("note"):
            self._console.print(note, markup=False, soft_wrap=True)
        digest, completed, total = step.get("digest"), step.get("completed") or 0, step.get("total") or 0
        if digest is None or digest in self._whole:
            return
        whole = completed == total
        if whole or self._clock() - self._printed_at >= PLAIN_EVERY_S:
            self._printed_at = self._clock()
            if whole:
                self._whole.add(digest)
            share = say("{part} of {whole}", part=human_bytes(completed), whole=human_bytes(total))
            self._console.print(f"{step.get('file') or digest}: {share}", markup=False, soft_wrap=True)
