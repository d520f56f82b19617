"""An answer on its way to the terminal: text as it is, thinking dimmed where there are colours."""

from __future__ import annotations

import sys

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Printer:
    """Prints one answer; `end` closes it, however it ended."""

    def __init__(self, *, thinking: bool = True) -> None:
        self._colours = sys.stdout.isatty()
        self._show_thinking = thinking and self._colours  # in a pipe only the answer is wanted
        self._kind = "text"

    def show(self, kind: str, piece: str) -> None:
        if kind == "thinking" and not self._show_thinking:
            return
        if kind != self._kind:
            self._write(DIM if kind == "thinking" else f"{PLAIN}\n\n")
            self._kind = kind
            if kind == "text":
                piece = piece.lstrip("\n")
        self._write(piece)

    def end(self) -> None:
        self._write(f"{PLAIN}\n" if self._kind == "thinking" else "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
