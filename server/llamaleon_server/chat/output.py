"""From an engine's deltas to events: text, thinking and calls, each with what belongs to it."""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from llamaleon_server.chat.dialects.dialect import Dialect, Setup
from llamaleon_server.chat.dialects.reading import Piece, Reading
from llamaleon_server.chat.events import Ended, Event, Text
from llamaleon_server.engine.protocol import Delta, Finish, TokenLogprob


class _Scored(Struct, frozen=True):
    """Log probabilities of tokens that became the characters up to `end`."""

    end: int
    logprobs: list[TokenLogprob]


class Output:
    """One choice's."""

    def __init__(self, dialect: Dialect, setup: Setup) -> None:
        self._reading: Reading | None = None
        if dialect.reads(setup):
            self._reading = Reading()
            self._steps = dialect.read(self._reading, setup)
            self._reads_on = True
        self._characters = 0
        self._scored: deque[_Scored] = deque()
        self._thinking_tokens = 0

    def take(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        if self._reading is None:
            if delta.text or delta.logprobs:
                events.append(Text(delta.text, delta.logprobs))
        else:
            events += self._read(self._reading, delta)
        if delta.finish is not None:
            events.append(Ended(self._reason(delta.finish), delta.finish, self._thinking_tokens))
        return events

    def _read(self, reading: Reading, delta: Delta) -> list[Event]:
        thought = reading.is_thinking
        reading.add(delta.text)
        self._characters += len(delta.text)
        if delta.logprobs:
            self._scored.append(_Scored(self._characters, delta.logprobs))
        self._go_on()
        if thought or reading.is_thinking:
            self._thinking_tokens += len(delta.tokens)
        if delta.finish is not None:
            reading.end()
            self._go_on()
        pieces, reading.pieces = reading.pieces, []
        return [self._with_logprobs(piece) for piece in pieces]

    def _go_on(self) -> None:
        if self._reads_on:
            self._reads_on = next(self._steps, False) is not False

    def _with_logprobs(self, piece: Piece) -> Event:
        """Text brings the tokens that it came from; those of marks, thinking and calls are not told."""
        if not isinstance(piece.event, Text):
            return piece.event
        found: list[TokenLogprob] = []
        while self._scored and self._scored[0].end <= piece.begin:
            self._scored.popleft()
        begun = piece.begin
        while self._scored and begun < piece.end:
            found += self._scored[0].logprobs
            begun = self._scored.popleft().end
        return Text(piece.event.text, found or None)

    def _reason(self, finish: Finish) -> Literal["stop", "length", "tool_calls"]:
        if finish.reason == "length":
            return "length"
        return "tool_calls" if self._reading is not None and self._reading.calls else "stop"
