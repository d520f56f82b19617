"""uvicorn's connection, which waits only so long for a request to arrive."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LINGER_S = 1.0


def patient(seconds: float) -> type[H11Protocol]:
    """`Patient` for so long: uvicorn makes connections of a class."""
    return type("Patient", (Patient,), {"seconds": seconds})


class Patient(H11Protocol):
    """Ends a connection when the head of a request, or a body that nobody wants any more, takes longer.

    While a request is answered, its limits are those of `web/limits.py`.
    """

    seconds: ClassVar[float]
    _waiting: asyncio.TimerHandle | None = None
    _refused = False  # what came is no HTTP, and was answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if not self._refused:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Whoever closes a connection with unread bytes in it resets it, and the answer may be lost: what
        still comes is thrown away for a moment."""
        self._refused = True
        self._stop()
        self.transport.write(_plain("400 Bad Request", msg))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Let the clock run exactly while a request is arriving."""
        if self.cycle is None or (self.cycle.response_complete and not self._idle()):
            if self._waiting is None:
                self._waiting = self.loop.call_later(self.seconds, self._give_up)
        else:
            self._stop()

    def _idle(self) -> bool:
        """Between two requests: uvicorn's own clock runs."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun:  # half a head: its sender may listen
            self.transport.write(_plain("408 Request Timeout", "The request did not arrive in time."))
        self.transport.close()


def _plain(status: str, message: str) -> bytes:
    """An answer before there is a request to answer, after which the connection ends."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    return f"{head}content-length: {len(message)}\r\n\r\n{message}".encode()
