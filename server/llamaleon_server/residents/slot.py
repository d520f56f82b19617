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
from llamaleon_server.residents.memory import Need, resident_bytes
from llamaleon_server.settings import EngineSettings

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
FAILED_WITHIN_S = 60.0

OpenChannel = Callable[[Base], Awaitable[Channel]]
Prepare = Callable[["Slot"], Awaitable[None]]


class Slot:
    def __init__(
        self,
        base: Base,
        open_channel: OpenChannel,
        start_timeout_s: float,
        when_ready: Callable[[Slot, Engine], None],
        prepare: Prepare,
    ) -> None:
        """`prepare` is awaited before each start: it sets `options` and `need`, and waits for `granted`."""
        self.base = base
        self.options = EngineSettings()  # that the engine was started with
        self.need = Need(weights=base.bytes, cache=0, compute=0)
        self.granted: Need | None = None  # set: this memory counts as taken
        self.progress = 0.0  # of the load under way, 0 to 1
        self.users = 0  # requests that hold the engine
        self.last_used = time.monotonic()
        self._open_channel = open_channel
        self._start_timeout_s = start_timeout_s
        self._when_ready = when_ready
        self._prepare = prepare
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
        return 0.0 if self.in_use else time.monotonic() - self.last_used

    @property
    def in_use(self) -> bool:
        engine = self.engine
        return bool(self.users or self._starting is not None or (engine is not None and engine.busy))

    @property
    def holds_memory(self) -> bool:
        """Granted, and neither dead nor gone."""
        present = self.engine is not None or self._starting is not None or self._closing is not None
        return self.granted is not None and present

    @property
    def taken(self) -> int:
        """Bytes: what it was granted, or what the process really holds if that is more."""
        granted = 0 if self.granted is None else self.granted.total
        return max(granted, resident_bytes(None if self.engine is None else self.engine.pid) or 0)

    async def get(self) -> Engine:
        """The running engine; all who ask while it starts share one start.

        Raises:
            EngineFailed: the model cannot be loaded.
            EngineUnavailable: it was unloaded meanwhile; or it failed so often just now that trying again
                would only burn the machine.
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
        self.progress = 0.0
        try:
            await self._prepare(self)
            engine = await self._load()
        except asyncio.CancelledError as error:  # by `_stop`: who waits must not take it for their own
            self.granted = None
            raise EngineUnavailable(f"The model `{self.base.name}` was unloaded while it loaded.") from error
        except BaseException:
            self.granted = None
            raise
        finally:
            self._starting = None
        self._engine = engine
        self.last_used = time.monotonic()
        self._when_ready(self, engine)
        return engine

    async def _load(self) -> Engine:
        started = time.monotonic()
        try:
            channel = await self._open_channel(self.base)
            log.info("loading %s from %s", self.base.name, self.base.path)
            engine = await Engine.start(self.base.name, channel, self._start_timeout_s, self._set_progress)
        except LlamaleonError as error:
            log.error("%s", error)  # noqa: TRY400 (a foreseen failure: its message says everything)
            self._failures.append((time.monotonic(), error))
            raise
        ready = engine.ready
        log.info(
            "%s is ready after %.2f s (process %s): %s, %d tokens of context, %d requests at once",
            self.base.name,
            time.monotonic() - started,
            engine.pid,
            ready.device,
            ready.context_tokens,
            ready.parallel_sequences,
        )
        for option, why in ready.automatic.items():
            log.info("%s: %s was chosen: %s", self.base.name, option, why)
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
            self.granted = None

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
