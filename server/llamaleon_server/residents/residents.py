"""All resident base models: which engine answers, with which adapters, and for how long it stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection

import msgspec
import psutil

from llamaleon_server.engine.protocol import (
    AdapterUse,
    Delta,
    EngineOptions,
    Generate,
    GenerateRequest,
    Ready,
)
from llamaleon_server.errors import EngineUnavailable, LlamaleonError, NotFound
from llamaleon_server.registry.records import Base, Target
from llamaleon_server.residents.channel import Channel, ProcessChannel
from llamaleon_server.residents.engine import Engine
from llamaleon_server.residents.slot import OpenChannel, Slot
from llamaleon_server.settings import Settings

log = logging.getLogger(__name__)

TICK_S = 5.0  # how often idle engines and forgotten adapters are looked for, at most


class ResidentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `GET /llamaleon/ps`. Times are Unix seconds; `expires` None: never, or in use."""

    name: str
    path: str
    state: str  # loading, ready, stopped
    progress: float
    running: int
    pid: int | None = None
    resident_bytes: int | None = None
    started: float | None = None
    idle_s: float = 0.0
    expires: float | None = None
    adapters: list[str] = []  # content keys loaded in the engine
    ready: Ready | None = None


class Residents:
    """Raises everywhere: EngineFailed, EngineUnavailable, AdapterRefused, and what the engine refuses."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_channel: OpenChannel | None = None,
        live_adapter_keys: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """`live_adapter_keys`: contents that a name still stands for; others leave an engine once unused."""
        self._settings = settings
        self._open_channel = open_channel or self._spawn
        self._live_adapter_keys = live_adapter_keys
        self._slots: dict[str, Slot] = {}
        self._closed = False
        self._janitor: asyncio.Task[None] | None = None

    async def engine(self, base: Base) -> Engine:
        """The running engine of `base`. Who needs it for longer than one call takes a `lease`."""
        if self._closed:
            raise EngineUnavailable("The server is stopping.")
        if self._janitor is None:
            self._janitor = asyncio.create_task(self._keep_house())
        slot = self._slots.get(base.name)
        if slot is None:
            slot = self._slots[base.name] = Slot(
                base, self._open_channel, self._settings.engine_start_timeout_s
            )
        elif _file(slot.base) != _file(base) and not slot.users:
            slot.base = base  # the name now means another file, or the file was replaced
            if slot.state != "stopped":
                await slot.close()
        return await slot.get()

    @contextlib.asynccontextmanager
    async def lease(self, base: Base) -> AsyncIterator[Engine]:
        """The engine, which is not unloaded for idleness inside the block."""
        await self.engine(base)
        slot = self._slots[base.name]
        slot.users += 1
        try:
            yield await slot.get()
        finally:
            slot.users -= 1
            slot.last_used = time.monotonic()

    async def generate(self, target: Target, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Run on the target's base with its adapters, loading what is not loaded yet. Closing cancels."""
        uses = tuple(AdapterUse(version.key, weight) for version, weight in target.adapters)
        message = Generate(id=0, adapters=uses, **msgspec.structs.asdict(request))
        async with self.lease(target.base) as engine:
            with engine.holding([use.key for use in uses]):
                for version, _ in target.adapters:
                    await engine.load_adapter(version.key, version.path)
                async with contextlib.aclosing(engine.generate(message)) as deltas:
                    async for delta in deltas:
                        yield delta

    async def unload(self, base_name: str) -> None:
        """Give the memory back now; running requests of that base end with `EngineUnavailable`.

        Raises: NotFound if the model is not in memory.
        """
        slot = self._slots.get(base_name)
        if slot is None or slot.state == "stopped":
            raise NotFound(f"The model `{base_name}` is not in memory.", param="model")
        await slot.close()

    def ps(self) -> list[ResidentInfo]:
        return [self._info(slot) for slot in self._slots.values() if slot.state != "stopped"]

    async def close(self) -> None:
        """Stop every engine, for good; returns when their processes have ended. What runs fails."""
        self._closed = True
        if self._janitor is not None:
            self._janitor.cancel()
            await asyncio.wait([self._janitor])
            self._janitor = None
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(slot.close() for slot in slots))

    # ------------------------------------------------------------ inside

    async def _spawn(self, base: Base) -> Channel:
        options = EngineOptions(model_path=str(base.path), **msgspec.structs.asdict(self._settings.engine))
        return await ProcessChannel.spawn(base.name, options, self._settings.engine_command)

    async def _keep_house(self) -> None:
        limit_s = self._settings.idle_unload_s
        tick_s = TICK_S if limit_s is None else min(TICK_S, max(limit_s / 4, 0.01))
        while True:
            await asyncio.sleep(tick_s)
            for slot in list(self._slots.values()):
                try:
                    await self._tidy(slot, limit_s)
                except LlamaleonError as error:  # it died meanwhile: there is nothing left to tidy
                    log.warning("tidying %s: %s", slot.base.name, error)

    async def _tidy(self, slot: Slot, limit_s: float | None) -> None:
        engine = slot.engine
        if engine is None:
            return
        if limit_s is not None and slot.idle_s > limit_s:
            log.info("%s was idle for %.0f s: unloading it", slot.base.name, slot.idle_s)
            await slot.close()
        elif self._live_adapter_keys is not None and engine.adapter_keys:
            live = self._live_adapter_keys()
            for key in engine.adapter_keys:
                if key not in live and not engine.adapter_users[key]:
                    await engine.unload_adapter(key)

    def _info(self, slot: Slot) -> ResidentInfo:
        engine, limit_s = slot.engine, self._settings.idle_unload_s
        idle_s = slot.idle_s
        info = ResidentInfo(
            name=slot.base.name,
            path=str(slot.base.path),
            state=slot.state,
            progress=1.0 if engine is not None else slot.progress,
            running=0 if engine is None else engine.running,
            idle_s=idle_s,
            expires=None if limit_s is None or not idle_s else time.time() + limit_s - idle_s,
        )
        if engine is None:
            return info
        return msgspec.structs.replace(
            info,
            pid=engine.pid,
            resident_bytes=_resident_bytes(engine.pid),
            started=engine.started,
            adapters=engine.adapter_keys,
            ready=engine.ready,
        )


def _file(base: Base) -> tuple[object, ...]:
    return base.path, base.fingerprint


def _resident_bytes(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended just now
        return None
