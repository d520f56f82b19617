"""Text that comes in pieces, shown so that the terminal's edge breaks lines between words."""

from __future__ import annotations

from rich.cells import cell_len

TAB = 8  # columns


class Wrapped:
    """Turns pieces into what to write. A word that does not fit is taken back and begun on the next line.

    What is longer than a line stays whole, for the terminal to break: a link can then be copied.
    """

    def __init__(self, columns: int) -> None:
        """`columns` of the terminal; the last one stays free, where terminals differ."""
        self._limit = max(1, columns - 1)
        self._column = 0
        self._word = ""

    def piece(self, text: str) -> str:
        return "".join(self._character(one) for one in text)

    def _character(self, one: str) -> str:
        if one == "\n":
            self._column, self._word = 0, ""
            return one
        if one == "\t":
            self._column, self._word = (self._column // TAB + 1) * TAB, ""
            return one
        if one == " ":
            self._word = ""
            if self._column >= self._limit:
                self._column = 0
                return "\n"
            self._column += 1
            return one
        before = ""
        width = cell_len(self._word)
        if self._column + cell_len(one) > self._limit and width < self._column:
            back = f"\x1b[{width}D\x1b[K" if width else ""
            before = f"{back}\n{self._word}"
            self._column = width
        self._word += one
        self._column += cell_len(one)
        return before + one
