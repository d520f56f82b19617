"""From token bytes to text that may be shown: whole UTF-8, never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class TextCutter:
    """Takes bytes as they are generated and gives back text as soon as it is certain.

    The stop string that is complete first wins, the longest of those that end together, so the result does
    not depend on where token borders fall.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._stops = {text.encode(): text for text in stop if text}
        self._pending = b""  # bytes that may still become a stop string
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._given = 0
        self.stop_string: str | None = None

    @property
    def certain_bytes(self) -> int:
        """How many of the bytes taken so far are in the text given back."""
        return self._given - len(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Add bytes; nothing more may be added once `stop_string` is set."""
        self._pending += piece
        begin = self._find_stop()
        if begin is not None:
            return self._give(begin, final=True)
        return self._give(len(self._pending) - self._held())

    def finish(self) -> str:
        """The rest, now that no more bytes come: what looked like a stop string was none."""
        return self._give(len(self._pending), final=True)

    def _find_stop(self) -> int | None:
        found = [
            (at + len(stop), at, text)
            for stop, text in self._stops.items()
            if (at := self._pending.find(stop)) >= 0
        ]
        if not found:
            return None
        _, begin, self.stop_string = min(found)
        return begin

    def _held(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._pending)), longest, -1):
                if self._pending.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _give(self, count: int, *, final: bool = False) -> str:
        ready, self._pending = self._pending[:count], self._pending[count:]
        self._given += count
        return self._decoder.decode(ready, final)
