"""An answer on its way to the terminal: text as it is, thinking dimmed where there are colours."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Self

from rich.console import Console

from llamaleon_clients.talk.wrapping import Wrapped

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Printer:
    """Prints one answer; `end` closes it, however it ended.

    As a context it shows, at a terminal, that something is awaited until the first piece comes: a model that
    is not in memory takes its time.
    """

    def __init__(self) -> None:
        self.begun = False
        self._show_thinking = sys.stdout.isatty()  # in a pipe only the answer is wanted
        self._kind = "text"
        terminal = Console(stderr=True)
        self._waiting = terminal.status("") if self._show_thinking and terminal.is_terminal else None
        able = self._show_thinking and not terminal.is_dumb_terminal
        self._dim, self._plain = (DIM, PLAIN) if able else ("", "")
        self._wrapped = Wrapped(shutil.get_terminal_size().columns) if able else None

    def __enter__(self) -> Self:
        if self._waiting is not None:
            self._waiting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def show(self, kind: str, piece: str) -> None:
        if kind == "thinking" and not self._show_thinking:
            return
        self._begin()
        self.begun = True
        if kind != self._kind:
            self._write(self._dim if kind == "thinking" else self._plain)
            self._kind = kind
            if kind == "text":
                piece = "\n\n" + piece.lstrip("\n")
        self._write(piece if self._wrapped is None else self._wrapped.piece(piece))

    def end(self) -> None:
        self._write(f"{self._plain}\n" if self._kind == "thinking" else "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
