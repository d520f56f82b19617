"""Frames on the engine's standard input and output.

The native library and its dependencies may print to file descriptor 1 at any time, so `claim_pipes` takes
the two pipes away first: afterwards descriptor 1 is standard error and only `Channel` reaches the API.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import BinaryIO

import msgspec

from llamaleon_server.engine import protocol

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30


class MalformedMessage(Exception):
    """A frame that is not a message. `request` is its id where one can be read, else None."""

    def __init__(self, reason: str, request: int | None) -> None:
        super().__init__(reason)
        self.request = request


class Channel:
    """One pipe in, one out. `receive` belongs to one thread; `send` may be called from any."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(protocol.ToEngine)

    def receive(self) -> protocol.ToEngine | None:
        """The next message; None at the end of the stream.

        Raises: MalformedMessage for a frame that is none; the next call reads the frame after it.
        """
        head = self._incoming.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(head)
        if length > MAX_FRAME_BYTES:
            return None  # out of step: nothing after this can be trusted
        body = self._incoming.read(length)
        if len(body) < length:
            return None
        try:
            message: protocol.ToEngine = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise MalformedMessage(str(error), _request_of(body)) from error
        return message

    def send(self, message: protocol.FromEngine) -> None:
        """Write one frame. Raises: BrokenPipeError if the API is gone."""
        body = self._encoder.encode(message)
        with self._lock:
            self._outgoing.write(LENGTH.pack(len(body)) + body)
            self._outgoing.flush()


def _request_of(body: bytes) -> int | None:
    try:
        found = msgspec.msgpack.decode(body)
    except msgspec.MsgspecError:
        return None
    number = found.get("id") if isinstance(found, dict) else None
    return number if isinstance(number, int) else None


def claim_pipes() -> Channel:
    """Take standard input and output for the protocol and point descriptor 1 at standard error."""
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return Channel(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"))
