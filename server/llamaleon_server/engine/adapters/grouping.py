"""Turns between sequences that cannot share a pass.

What the adapter bank can take shares every pass: one lane. An adapter that it cannot take has a lane of its
own, and where mixing is off every set of adapters has: llama.cpp applies those to all tokens of a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf

from llamaleon_server.engine.sequence import AdapterSet, Sequence

TURN_STEPS = 4  # a switch re-reserves the compute graph, 10 to 85 ms: taken every fourth step, not every step


class TakeTurns:
    """One lane per pass, in turns; a lane keeps its turn for a few steps, or while it is alone.

    A lane that has just arrived goes first, so that its first token does not wait for a turn to end; but
    never twice in a row, so that a stream of newcomers starves nobody.
    """

    def __init__(self, lane: Callable[[AdapterSet], AdapterSet] = lambda adapters: adapters) -> None:
        """`lane` says which sets share passes, by a name for their lane; by default each is alone."""
        self._lane = lane
        self._clock = 0
        self._current: AdapterSet | None = None
        self._turn_steps = 0
        self._jumped = False  # the current turn was a newcomer's
        self._last_seen: dict[AdapterSet, int] = {}  # lane -> when it was last served, or else arrived
        self._newcomers: dict[AdapterSet, None] = {}  # not served yet, in order of arrival

    def choose(self, running: ListOf[Sequence]) -> list[Sequence]:
        """The sequences of the lane whose turn it is; empty only if nothing runs."""
        if not running:
            return []
        present = dict.fromkeys(self._lane(sequence.adapters) for sequence in running)
        self._notice(present)
        if self._turn_ends(present):
            self._current, self._jumped = self._next(present)
            self._turn_steps = 0
        current = self._current
        assert current is not None, "somebody's turn has begun"
        self._turn_steps += 1
        self._clock += 1
        self._last_seen[current] = self._clock
        self._newcomers.pop(current, None)
        return [sequence for sequence in running if self._lane(sequence.adapters) == current]

    def _notice(self, present: dict[AdapterSet, None]) -> None:
        self._newcomers |= {key: None for key in present if key not in self._last_seen}
        self._newcomers = {key: None for key in self._newcomers if key in present}
        self._last_seen = {key: self._last_seen.get(key, self._clock) for key in present}

    def _turn_ends(self, present: dict[AdapterSet, None]) -> bool:
        if self._current not in present:
            return True
        jump = bool(self._newcomers) and not self._jumped
        return len(present) > 1 and (jump or self._turn_steps >= TURN_STEPS)

    def _next(self, present: dict[AdapterSet, None]) -> tuple[AdapterSet, bool]:
        """The lane to serve, and whether it goes before others."""
        if self._newcomers and not self._jumped:
            return next(iter(self._newcomers)), len(present) > 1
        others = [key for key in present if key != self._current]
        return min(others, key=self._last_seen.__getitem__), False
