"""The pipe pair to one engine process. `Channel` is the seam where tests put a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import sys
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from llamaleon_server.engine import protocol
from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.errors import EngineFailed

log = logging.getLogger(__name__)

LENGTH = struct.Struct("<I")
KEPT_LINES = 12  # of the engine's log, for the message when it dies
STOP_S = 5.0  # from the polite request to SIGTERM, and from there to SIGKILL


class Channel(Protocol):
    """Messages to and from one engine."""

    @property
    def pid(self) -> int | None: ...

    def send(self, message: protocol.ToEngine) -> None:
        """Hand over without waiting. A dead engine is noticed by `receive`, never here."""

    async def receive(self) -> protocol.FromEngine | None:
        """The next message; None once the engine is gone."""

    def last_words(self) -> str:
        """Why it is gone, as far as its exit status and the end of its log tell."""

    async def close(self) -> None:
        """Stop the engine; returns when its process has ended."""


class ProcessChannel:
    """`python -m llamaleon_server.engine OPTIONS`, whose standard error goes to our log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._in, self._out = process.stdin, process.stdout
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[protocol.FromEngine] = msgspec.msgpack.Decoder(
            protocol.FromEngine
        )
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._drain = asyncio.create_task(self._drain_log(process.stderr))

    @classmethod
    async def spawn(
        cls, name: str, options: EngineOptions, command: Sequence[str] | None = None
    ) -> ProcessChannel:
        """Raises: EngineFailed if there is no such command."""
        command = command or (sys.executable, "-m", "llamaleon_server.engine")
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                msgspec.json.encode(options).decode(),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                # Ctrl-C in the terminal is for the API alone, which then stops its engines in order.
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFailed(f"The engine of `{name}` cannot be started: {command[0]}: {error}") from error
        return cls(name, process)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, message: protocol.ToEngine) -> None:
        body = self._encoder.encode(message)
        if not self._in.is_closing():
            self._in.write(LENGTH.pack(len(body)) + body)

    async def receive(self) -> protocol.FromEngine | None:
        try:
            (length,) = LENGTH.unpack(await self._out.readexactly(LENGTH.size))
            return self._decoder.decode(await self._out.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except msgspec.MsgspecError as error:
            # Out of step with its protocol: nothing after this can be trusted.
            log.error("engine %s sent a malformed message: %s", self._name, error)  # noqa: TRY400 (foreign, no trace needed)
            return None

    def last_words(self) -> str:
        code = self._process.returncode
        how = "" if code is None else f"exit status {code}" if code >= 0 else f"signal {-code}"
        return ": ".join(part for part in (how, " | ".join(self._lines)) if part)

    async def close(self) -> None:
        self.send(protocol.Shutdown())
        self._in.close()
        for stronger in (self._process.terminate, self._process.kill):
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
                break
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    stronger()
        await self._process.wait()
        await asyncio.wait([self._drain])  # not awaited itself: whoever is cancelled here would cancel it

    async def _drain_log(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while piece := await stream.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._keep(line)
        self._keep(rest)

    def _keep(self, line: bytes) -> None:
        if text := line.decode("utf-8", "replace").rstrip():
            self._lines.append(text)
            log.info("engine %s: %s", self._name, text)
