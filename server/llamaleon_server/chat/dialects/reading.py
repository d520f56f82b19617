"""An answer's text, read as it comes: what is certain is given on at once, what may be markup is held back.

A reader is a generator that takes from `Reading` and yields whenever it needs more text. So it reads like a
parser of the whole answer, and where the text is cut into pieces cannot matter.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from msgspec import Struct

from llamaleon_server.chat.events import CallArguments, CallBegun, Event, Text, Thinking

Value = TypeVar("Value")
Steps = Generator[None, None, Value]
"""Yields when it needs more text; returns what it read."""

Give = Callable[[str], None]

_SPACE = " \t\r\n"


class Malformed(Exception):
    """The text at this place is not what the dialect writes."""


class Cut(Exception):
    """The answer ends in the middle of what the dialect writes."""


class Piece(Struct, frozen=True):
    """An event, and which characters of the answer it was made of."""

    event: Event
    begin: int
    end: int


class Reading:
    """The text that has come, the place up to which it is read, and the events that were made of it."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.calls = 0
        self.is_thinking = False
        self.trimmed = ""  # white space before the last mark
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters before `_text`
        self._over = False
        self._kept: int | None = None  # from where on the text is not dropped

    # ------------------------------------------------------------ for whoever has the text

    def add(self, text: str) -> None:
        done = self._at if self._kept is None else self._kept
        self._text = self._text[done:] + text
        self._at -= done
        self._dropped += done
        if self._kept is not None:
            self._kept = 0

    def end(self) -> None:
        self._over = True

    # ------------------------------------------------------------ events

    def text(self, text: str) -> None:
        self._give(Text(text), text)

    def thinking(self, text: str) -> None:
        self._give(Thinking(text), text)

    def begin_call(self, name: str, identity: str | None = None) -> None:
        """Raises: Malformed if nothing is called."""
        if not name:
            raise Malformed
        begun = CallBegun(self.calls, identity or f"call_{uuid.uuid4().hex[:24]}", name)
        self.calls += 1
        self._kept = None  # there is no going back behind a call
        self._give(begun, name)

    def arguments(self, text: str) -> None:
        self._give(CallArguments(self.calls - 1, text), text)

    def _give(self, event: Event, text: str) -> None:
        if text:
            end = self._dropped + self._at
            self.pieces.append(Piece(event, max(0, end - len(text)), end))

    # ------------------------------------------------------------ taking

    def character(self) -> Steps[str]:
        """The next character, which stays; nothing at the end."""
        while self._at == len(self._text) and not self._over:
            yield
        return self._text[self._at : self._at + 1]

    def take(self, count: int) -> str:
        """Characters that are known to be there."""
        taken = self._text[self._at : self._at + count]
        self._at += count
        return taken

    def space(self) -> Steps[None]:
        while (character := (yield from self.character())) and character in _SPACE:
            self._at += 1

    def one_of(self, marks: Sequence[str]) -> Steps[str | None]:
        """The longest of these that the text goes on with, taken; None, with nothing taken, if none."""
        while True:
            rest = self._text[self._at :]
            open_ = [mark for mark in marks if mark != rest and mark.startswith(rest)]
            if not open_ or self._over:
                found = max((mark for mark in marks if rest.startswith(mark)), key=len, default=None)
                self._at += len(found or "")
                return found
            yield

    def expect(self, *marks: str) -> Steps[str]:
        """Raises: Malformed; Cut."""
        found = yield from self.one_of(marks)
        if found is None:
            raise Cut if self.is_cut(marks) else Malformed
        return found

    def is_cut(self, marks: Sequence[str]) -> bool:
        """Whether the answer ends here, in the middle of one of these or before it."""
        rest = self._text[self._at :]
        return self._over and any(mark.startswith(rest) for mark in marks)

    def until(self, marks: Sequence[str], give: Give, *, trim: bool = False) -> Steps[str | None]:
        """Give on the text before the first of `marks`, which is taken and returned; None at the end.

        No mark is part of another one. No more is held back than what may begin a mark; with `trim` also
        white space, which is dropped where a mark follows.
        """
        while True:
            rest = self._text[self._at :]
            found = min(((at, mark) for mark in marks if (at := rest.find(mark)) >= 0), default=None)
            before = rest[: found[0]] if found else rest[: len(rest) - _tail(rest, marks)]
            if found is None and self._over:
                before = rest
            elif trim:
                before = before.rstrip(_SPACE)
            self._pass(before, give)
            if found is not None:
                at, mark = found
                self.trimmed = rest[len(before) : at]
                self._at += at - len(before) + len(mark)
                return mark
            if self._over:
                return None
            yield

    def _pass(self, text: str, give: Give) -> None:
        self._at += len(text)
        if text:
            give(text)

    # ------------------------------------------------------------ JSON

    def json_string(self) -> Steps[str]:
        """Raises: Malformed; Cut."""
        if (yield from self.character()) not in ('"', ""):
            raise Malformed
        written: list[str] = []
        if not (yield from self.json_value(written.append)):
            raise Cut
        try:
            return str(json.loads("".join(written), strict=False))
        except ValueError:  # an escape that is none
            raise Malformed from None

    def json_value(self, give: Give) -> Steps[bool]:
        """Give on the text of a value as it comes; whether its end came.

        Only brackets and quotes are looked at. Raises: Malformed where no value can begin; Cut at the end.
        """
        first = yield from self.character()
        if not first:
            raise Cut
        if first in ",:]}":
            raise Malformed
        depth, quoted, escaped = 0, False, False
        while not self._over or self._at < len(self._text):
            begin, ended = self._at, False
            for at in range(begin, len(self._text)):
                character = self._text[at]
                if quoted:
                    quoted = escaped or character != '"'
                    escaped = not escaped and character == "\\"
                    ended = not quoted and depth == 0
                elif character == '"':
                    quoted = True
                elif character in "{[":
                    depth += 1
                elif character in "}]" and depth:
                    depth -= 1
                    ended = depth == 0
                elif depth == 0 and character in ",}] \t\r\n<":  # the end of a number or a name
                    self._pass(self._text[begin:at], give)
                    return True
                if ended:
                    self._pass(self._text[begin : at + 1], give)
                    return True
            self._pass(self._text[begin:], give)
            yield from self.character()
        return False

    # ------------------------------------------------------------ going back

    def attempt(self, steps: Steps[None], *, or_text: bool = False) -> Steps[bool]:
        """Read by `steps`. Where the text is malformed, and no call has begun, nothing is taken: False.

        At the end of an answer that was cut off, what is incomplete is nothing; with `or_text` it is text.
        """
        self._kept = self._at
        try:
            yield from steps
        except (Malformed, Cut) as stopped:
            if self._kept is not None and (or_text or isinstance(stopped, Malformed)):
                self._at = self._kept
                return False
            if isinstance(stopped, Cut):
                self._at = len(self._text)
        finally:
            self._kept = None
        return True


def _tail(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that one of `marks` begins with, but is not yet all of it."""
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:length]):
                longest = length
                break
    return longest
