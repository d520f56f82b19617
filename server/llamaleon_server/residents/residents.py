"""All resident base models: which engine answers, with which adapters, and for how long it stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine

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
from llamaleon_server.registry.records import AdapterVersion, Base, Target
from llamaleon_server.residents.adapters import AdapterKeeper, AdapterRecords
from llamaleon_server.residents.channel import Channel, ProcessChannel
from llamaleon_server.residents.engine import Engine
from llamaleon_server.residents.slot import OpenChannel, Slot
from llamaleon_server.residents.throughput import Vitals, log_line
from llamaleon_server.settings import Settings

log = logging.getLogger(__name__)

TICK_S = 5.0  # how often idle engines and forgotten adapters are looked for, at most
REPORT_S = 10.0  # how often a busy engine's throughput is logged
STATUS_TIMEOUT_S = 0.5  # an engine's reader answers at once; one that does not must hold up nobody


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
    adapters: list[str] = []  # content keys known to the engine
    pinned: list[str] = []  # content keys among them that stay in its bank
    ready: Ready | None = None


class Residents:
    """Raises everywhere: EngineFailed, EngineUnavailable, AdapterRefused, and what the engine refuses."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_channel: OpenChannel | None = None,
        records: AdapterRecords | None = None,
    ) -> None:
        self._settings = settings
        self._open_channel = open_channel or self._spawn
        self._keeper = AdapterKeeper(records)
        self._slots: dict[str, Slot] = {}
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping_house = False

    async def engine(self, base: Base) -> Engine:
        """The running engine of `base`. Who needs it for longer than one call takes a `lease`."""
        if self._closed:
            raise EngineUnavailable("The server is stopping.")
        if not self._keeping_house:
            self._keeping_house = True
            self._begin(self._keep_house())
            self._begin(self._report())
        slot = self._slots.get(base.name)
        if slot is None:
            slot = self._slots[base.name] = Slot(
                base, self._open_channel, self._settings.engine_start_timeout_s, self._when_ready
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
                    await self.load_adapter(engine, version)
                async with contextlib.aclosing(engine.generate(message)) as deltas:
                    async for delta in deltas:
                        yield delta

    async def load_adapter(self, engine: Engine, version: AdapterVersion) -> None:
        """Make a version usable in a leased engine. Raises: AdapterRefused, and records it."""
        await self._keeper.load(engine, version)

    async def offer(self, base: Base, version: AdapterVersion) -> None:
        """Try a version that was just registered, if its base is in memory; never start an engine for it.

        Raises:
            AdapterRefused: the engine does not take it, which is recorded.
        """
        engine = self._ready_engine(base)
        if engine is not None:
            await self._keeper.offer(engine, version)

    async def settle_pins(self, base: Base) -> dict[str, LlamaleonError]:
        """Let the engine, if it is in memory, pin what the records say. Returns: failures by content key."""
        engine = self._ready_engine(base)
        return {} if engine is None else await self._keeper.settle_pins(engine)

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

    async def vitals(self) -> dict[str, Vitals]:
        """By base, what every engine that is ready says of itself; one that does not answer is left out."""
        ready = [slot.engine for slot in self._slots.values() if slot.engine is not None]
        found = await asyncio.gather(*(_vitals(engine) for engine in ready))
        return {
            engine.name: vitals for engine, vitals in zip(ready, found, strict=True) if vitals is not None
        }

    async def close(self) -> None:
        """Stop every engine, for good; returns when their processes have ended. What runs fails."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(slot.close() for slot in slots))

    # ------------------------------------------------------------ inside

    async def _spawn(self, base: Base) -> Channel:
        options = EngineOptions(model_path=str(base.path), **msgspec.structs.asdict(self._settings.engine))
        return await ProcessChannel.spawn(base.name, options, self._settings.engine_command)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ready_engine(self, base: Base) -> Engine | None:
        slot = self._slots.get(base.name)
        return slot.engine if slot is not None and _file(slot.base) == _file(base) else None

    def _when_ready(self, engine: Engine) -> None:
        self._begin(self._pin(engine))

    async def _pin(self, engine: Engine) -> None:
        await self._keeper.settle_pins(engine)

    async def _report(self) -> None:
        """One line for each engine that worked since the last look."""
        steps: dict[str, int] = {}
        while True:
            await asyncio.sleep(REPORT_S)
            for name, vitals in (await self.vitals()).items():
                if vitals.status.step.steps != steps.get(name, 0):
                    log.info("%s: %s", name, log_line(vitals))
                steps[name] = vitals.status.step.steps

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
        else:
            await self._keeper.forget(engine)

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
            pinned=list(engine.pinned),
            ready=engine.ready,
        )


def _file(base: Base) -> tuple[object, ...]:
    return base.path, base.fingerprint


async def _vitals(engine: Engine) -> Vitals | None:
    try:
        status = await asyncio.wait_for(engine.status(), STATUS_TIMEOUT_S)
    except (TimeoutError, LlamaleonError) as error:
        log.debug("%s does not say how it is: %s", engine.name, error or "no answer in time")
        return None
    return Vitals(status=status, rates=engine.meter.rates())


def _resident_bytes(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended just now
        return None
