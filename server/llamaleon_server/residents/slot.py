"""One base model's place: no engine, one that starts, or one that runs; never two."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from llamaleon_server.errors import EngineUnavailable, LlamaleonError
from llamaleon_server.registry.records import Base
from llamaleon_server.residents.channel import Channel
from llamaleon_server.residents.engine import Engine

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
FAILED_WITHIN_S = 60.0

OpenChannel = Callable[[Base], Awaitable[Channel]]


class Slot:
    def __init__(
        self,
        base: Base,
        open_channel: OpenChannel,
        start_timeout_s: float,
        when_ready: Callable[[Engine], None],
    ) -> None:
        self.base = base
        self.progress = 0.0  # of the load under way, 0 to 1
        self.users = 0  # requests that hold the engine
        self.last_used = time.monotonic()
        self._open_channel = open_channel
        self._start_timeout_s = start_timeout_s
        self._when_ready = when_ready
        self._engine: Engine | None = None
        self._starting: asyncio.Task[Engine] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._failures: deque[tuple[float, LlamaleonError]] = deque(maxlen=MAX_FAILED_STARTS)

    @property
    def engine(self) -> Engine | None:
        return self._engine if self._engine is not None and self._engine.alive else None

    @property
    def state(self) -> str:
        if self.engine is not None:
            return "ready"
        return "stopped" if self._starting is None else "loading"

    @property
    def idle_s(self) -> float:
        """Seconds since the engine was last used; 0 while it is."""
        engine = self.engine
        in_use = self.users or self._starting is not None or (engine is not None and engine.busy)
        return 0.0 if in_use else time.monotonic() - self.last_used

    async def get(self) -> Engine:
        """The running engine; all who ask while it starts share one start.

        Raises:
            EngineFailed: the model cannot be loaded.
            EngineUnavailable: it failed so often just now that trying again would only burn the machine.
        """
        self.last_used = time.monotonic()
        while self._closing is not None:  # two engines at once might not fit into memory
            await asyncio.shield(self._closing)
        if self.engine is not None:
            return self.engine
        if self._starting is None:
            self._refuse_crash_loop()
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(_retrieved)
        # Shielded: the client who asked first may go away, the others still wait for this start.
        return await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Stop the engine, or the start of one; returns when the process has ended."""
        if self._closing is None:
            engine, self._engine = self._engine, None
            self._closing = asyncio.create_task(self._stop(engine, self._starting))
        await asyncio.shield(self._closing)

    async def _start(self) -> Engine:
        started = time.monotonic()
        self.progress = 0.0
        try:
            channel = await self._open_channel(self.base)
            log.info("loading %s from %s", self.base.name, self.base.path)
            engine = await Engine.start(self.base.name, channel, self._start_timeout_s, self._set_progress)
        except LlamaleonError as error:
            log.error("%s", error)  # noqa: TRY400 (a foreseen failure: its message says everything)
            self._failures.append((time.monotonic(), error))
            raise
        finally:
            self._starting = None
        self._engine = engine
        self.last_used = time.monotonic()
        log.info(
            "%s is ready after %.2f s (process %s): %s, %d tokens of context, %d requests at once",
            self.base.name,
            self.last_used - started,
            engine.pid,
            engine.ready.device,
            engine.ready.context_tokens,
            engine.ready.parallel_sequences,
        )
        self._when_ready(engine)
        return engine

    async def _stop(self, engine: Engine | None, starting: asyncio.Task[Engine] | None) -> None:
        try:
            if starting is not None:
                starting.cancel()
                await asyncio.wait([starting])
                engine, self._engine = self._engine or engine, None  # it may have become ready just then
            if engine is not None:
                await engine.close()
        finally:
            self._closing = None

    def _set_progress(self, fraction: float) -> None:
        self.progress = fraction

    def _refuse_crash_loop(self) -> None:
        if len(self._failures) < MAX_FAILED_STARTS:
            return
        first, (_, last) = self._failures[0][0], self._failures[-1]
        if time.monotonic() - first < FAILED_WITHIN_S:
            raise EngineUnavailable(
                f"The model failed to start {MAX_FAILED_STARTS} times within {FAILED_WITHIN_S:.0f} s; it is "
                f"tried again in a minute. The last time: {last.message}"
            )


def _retrieved(task: asyncio.Task[Engine]) -> None:
    """Everybody who waited may have gone away: then nobody else looks at the exception."""
    if not task.cancelled():
        task.exception()
