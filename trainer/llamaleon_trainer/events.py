"""events.jsonl: written by the trainer, followed by the server while it grows. No torch here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .job import Event


class EventWriter:
    """Appends events, each flushed whole. A line that a killed trainer left unfinished is cut off first.

    `listeners` hear each event after it was written.
    """

    def __init__(self, path: Path) -> None:
        _cut_unfinished_line(path)
        self._file = path.open("ab")
        self.listeners: list[Callable[[Event], None]] = []

    def write(self, type: str, **data: Any) -> None:
        event = Event(type, time.time(), data)
        self._file.write(msgspec.json.encode(event) + b"\n")  # NaN becomes null
        self._file.flush()
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        self._file.close()


class SilentWriter(EventWriter):
    """Writes nothing: of a rank for which another one speaks."""

    def __init__(self) -> None:
        self.listeners = []

    def write(self, type: str, **data: Any) -> None:
        """Nobody is to hear it twice."""

    def close(self) -> None:
        """Nothing is open."""


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Complete events from byte `offset` on, and the offset to go on from; a file not there yet has none.

    A resumed trainer goes back to its newest checkpoint, so `step` and `eval` events may come again for steps
    already seen: the later one holds.

    Raises:
        ValueError: a complete line that is no event.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    complete = data[: data.rfind(b"\n") + 1]
    events = []
    for line in complete.splitlines():
        try:
            events.append(msgspec.json.decode(line, type=Event))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}: not an event: {line[:80]!r}") from error
    return events, offset + len(complete)


def _cut_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
