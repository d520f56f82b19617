"""All resident base models: which engine answers, with which adapters, and for how long it stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from llamaleon_server.engine.options import EngineOptions
from llamaleon_server.engine.protocol import AdapterUse, Delta, Generate, GenerateRequest, Ready
from llamaleon_server.errors import EngineUnavailable, LlamaleonError, NotFound
from llamaleon_server.registry.records import AdapterVersion, Base, Target
from llamaleon_server.residents.adapters import AdapterKeeper, AdapterRecords
from llamaleon_server.residents.channel import Channel, ProcessChannel
from llamaleon_server.residents.engine import Engine
from llamaleon_server.residents.memory import need_of, resident_bytes
from llamaleon_server.residents.room import Room
from llamaleon_server.residents.slot import OpenChannel, Slot
from llamaleon_server.residents.throughput import Vitals, log_line
from llamaleon_server.settings import EngineSettings, Settings

log = logging.getLogger(__name__)

TICK_S = 5.0  # how often idle engines and forgotten adapters are looked for, at most
LEAST_PAUSE_S = 0.01
DRAIN_LOOK_S = 0.05  # between two looks whether a replaced model is still in use
KEEP_GRACE_S = 0.25  # a request that says how long the model stays uses it a moment later
REPORT_S = 10.0  # how often a busy engine's throughput is logged
STATUS_TIMEOUT_S = 0.5  # an engine's reader answers at once; one that does not must hold up nobody


class ResidentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `GET /llamaleon/ps`. Times are Unix seconds; `expires` None: never, or in use."""

    name: str
    path: str
    state: str  # loading, ready, stopped
    progress: float
    running: int  # generations
    in_use: bool = False  # by them, or by who is about to begin one, tokenises, trains, ...
    pid: int | None = None
    resident_bytes: int | None = None
    started: float | None = None
    idle_s: float = 0.0
    keep_alive_s: float | None = None  # None: for ever
    expires: float | None = None
    needed_bytes: int = 0  # the estimate before it was loaded
    options: EngineSettings = EngineSettings()  # that the engine was started with
    adapters: list[str] = []  # content keys known to the engine
    pinned: list[str] = []  # content keys among them that stay in its bank
    ready: Ready | None = None


class Kept(msgspec.Struct, frozen=True):
    """What a request said about how long its base stays; `at` on the monotonic clock."""

    seconds: float | None
    at: float


class Wishes(Protocol):
    """What is wanted of each base's engine; the registry knows."""

    def engine_settings(self, base: str, default: EngineSettings) -> EngineSettings: ...

    def keep_alive(self, base: str) -> float | UnsetType | None:
        """Seconds, None for ever, UNSET: nothing was said."""


class Residents:
    """Raises everywhere: EngineFailed, EngineUnavailable, AdapterRefused, and what the engine refuses."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_channel: OpenChannel | None = None,
        records: AdapterRecords | None = None,
        wishes: Wishes | None = None,
    ) -> None:
        """`records` and `wishes` are the registry's; without wishes all models are loaded as `settings`."""
        self._settings = settings
        self._wishes = wishes
        self._keeps: dict[str, Kept] = {}
        self._wake = asyncio.Event()
        self._open_channel = open_channel or self._spawn
        self._keeper = AdapterKeeper(records)
        self._slots: dict[str, Slot] = {}
        self.room = Room(settings, self._slots.values, self._close)
        self.off_gpu = False  # models are loaded into RAM: a training has the GPU; see sharing.py
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping_house = False

    @contextlib.asynccontextmanager
    async def lease(self, base: Base) -> AsyncIterator[Engine]:
        """The engine, which nobody's idleness or need of room unloads inside the block."""
        self._start_house()
        slot = await self._slot(base)
        slot.users += 1
        try:
            yield await slot.get()
        finally:
            slot.users -= 1
            slot.last_used = time.monotonic()
            self._changed()

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
        await self._close(slot)

    def keep(self, base_name: str, seconds: float | None) -> None:
        """From now on a base stays in memory for so long after its last use; None: until it is unloaded.

        0: it leaves as soon as nobody uses it. Holds until it leaves; it may be said before it is loaded.
        """
        self._keeps[base_name] = Kept(seconds, time.monotonic())
        self._wake.set()

    def ps(self) -> list[ResidentInfo]:
        return [self._info(slot) for slot in self._slots.values() if slot.state != "stopped"]

    def slots(self) -> list[Slot]:
        return list(self._slots.values())

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

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineUnavailable("The server is stopping.")

    def _start_house(self) -> None:
        self._refuse_closed()
        if not self._keeping_house:
            self._keeping_house = True
            self._begin(self._keep_house())
            self._begin(self._report())

    async def _slot(self, base: Base) -> Slot:
        """Of a base. Its engine is stopped, once nobody uses it, if the file or what is wanted changed."""
        slot = self._slots.get(base.name)
        if slot is None:
            slot = self._slots[base.name] = Slot(
                base,
                self._open_channel,
                self._settings.engine_start_timeout_s,
                self._when_ready,
                self._prepare,
            )
        elif _file(slot.base) != _file(base):  # the name now means another file, or it was replaced
            await self._drained(slot)
            if _file(slot.base) != _file(base):  # else another who waited was first
                slot.base = base
                await slot.close()
        elif not slot.users and slot.engine is not None and not slot.engine.busy and self._is_outdated(slot):
            log.info("%s is loaded again: its options changed", base.name)
            await slot.close()
        return slot

    async def _drained(self, slot: Slot) -> None:
        """Until nobody uses the earlier file any more: it must not answer in the new one's name.

        Raises: EngineUnavailable.
        """
        deadline = time.monotonic() + self._settings.room_wait_s
        while slot.users and slot.state != "stopped":
            if time.monotonic() >= deadline:
                raise EngineUnavailable(
                    f"The file of `{slot.base.name}` was replaced, and the earlier one still answers.",
                    param="model",
                )
            await asyncio.sleep(DRAIN_LOOK_S)

    def _wanted(self, base: Base) -> EngineSettings:
        default = self._settings.engine
        wanted = default if self._wishes is None else self._wishes.engine_settings(base.name, default)
        return msgspec.structs.replace(wanted, gpu_layers=0) if self.off_gpu else wanted

    def _is_outdated(self, slot: Slot) -> bool:
        """Whether a start would now use other options; a wish for context that is met or old is none."""
        wanted = self._wanted(slot.base)
        assert slot.engine is not None, "the caller has looked"
        least = slot.options.least_context_tokens
        if wanted.least_context_tokens <= max(least, slot.engine.ready.context_tokens):
            wanted = msgspec.structs.replace(wanted, least_context_tokens=least)
        return wanted != slot.options

    async def _prepare(self, slot: Slot) -> None:
        """Before a start: decide the options, and wait for room. Raises: EngineUnavailable."""
        self._refuse_closed()  # somebody may have waited for an earlier engine to leave
        slot.options = self._wanted(slot.base)
        slot.need = await asyncio.to_thread(need_of, slot.base, slot.options)
        await self.room.grant(slot)

    def _changed(self) -> None:
        self.room.changed()
        self._wake.set()

    async def _close(self, slot: Slot) -> None:
        self._keeps.pop(slot.base.name, None)
        await slot.close()
        self._changed()

    async def _spawn(self, base: Base) -> Channel:
        slot = self._slots[base.name]
        wanted = msgspec.structs.asdict(slot.options) | {"memory_bytes": self.room.limit(slot)}
        projector = str(base.projector) if base.projector is not None and base.projector.exists() else None
        options = EngineOptions(model_path=str(base.path), projector_path=projector, **wanted)
        return await ProcessChannel.spawn(base.name, options, self._settings.engine_command)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ready_engine(self, base: Base) -> Engine | None:
        slot = self._slots.get(base.name)
        return slot.engine if slot is not None and _file(slot.base) == _file(base) else None

    def _when_ready(self, slot: Slot, engine: Engine) -> None:
        self.room.learn(slot)
        self._wake.set()
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
        forgotten = time.monotonic()
        while True:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):  # wait_for may swallow being cancelled
                    await self._wake.wait()
            forgets = time.monotonic() - forgotten >= TICK_S
            forgotten = time.monotonic() if forgets else forgotten
            for slot in list(self._slots.values()):
                try:
                    await self._tidy(slot, forgets=forgets)
                except LlamaleonError as error:  # it died meanwhile: there is nothing left to tidy
                    log.warning("tidying %s: %s", slot.base.name, error)
                except Exception:  # the database, another package's engine: the next models are tidied still
                    log.exception("tidying %s", slot.base.name)

    def _pause_s(self) -> float:
        """Until the next model's time is over, at most TICK_S."""
        ends = [end for slot in self._slots.values() if (end := self._end(slot)) is not None]
        soonest = min(ends, default=math.inf) - time.monotonic()
        return max(LEAST_PAUSE_S, min(TICK_S, soonest))

    async def _tidy(self, slot: Slot, *, forgets: bool) -> None:
        if slot.engine is None:
            return
        end = self._end(slot)
        if end is not None and end <= time.monotonic():
            log.info("%s was idle for %.0f s: unloading it", slot.base.name, slot.idle_s)
            await self._close(slot)
        elif forgets:
            await self._keeper.forget(slot.engine)

    def _end(self, slot: Slot) -> float | None:
        """When an engine leaves if nobody uses it, on the monotonic clock. None: never, or it is in use."""
        kept, seconds = self._kept(slot)
        if slot.engine is None or slot.in_use or seconds is None:
            return None
        said = 0.0 if kept is None else kept.at + KEEP_GRACE_S
        return max(slot.last_used + seconds, said)

    def _kept(self, slot: Slot) -> tuple[Kept | None, float | None]:
        """What a request said, and the seconds that hold: its own, the presets', the server's."""
        kept = self._keeps.get(slot.base.name)
        if kept is not None:
            return kept, kept.seconds
        said = UNSET if self._wishes is None else self._wishes.keep_alive(slot.base.name)
        return None, self._settings.idle_unload_s if said is UNSET else said

    def _info(self, slot: Slot) -> ResidentInfo:
        engine, end = slot.engine, self._end(slot)
        _, keep_alive_s = self._kept(slot)
        info = ResidentInfo(
            name=slot.base.name,
            path=str(slot.base.path),
            state=slot.state,
            progress=1.0 if engine is not None else slot.progress,
            running=0 if engine is None else engine.running,
            in_use=slot.in_use,
            idle_s=slot.idle_s,
            keep_alive_s=keep_alive_s,
            expires=None if end is None else time.time() + end - time.monotonic(),
            needed_bytes=slot.need.total,
            options=slot.options,
        )
        if engine is None:
            return info
        return msgspec.structs.replace(
            info,
            pid=engine.pid,
            resident_bytes=resident_bytes(engine.pid),
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
