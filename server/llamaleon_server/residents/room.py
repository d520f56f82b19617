"""Room for the next model: others that nobody uses leave, the one unused for longest first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import psutil

from llamaleon_server.errors import EngineUnavailable
from llamaleon_server.settings import EngineSettings, Settings

if TYPE_CHECKING:
    from llamaleon_server.residents.slot import Slot

log = logging.getLogger(__name__)

SHARE = 0.8  # of the memory that is free while no model is loaded; the rest stays for everything else

Available = Callable[[], int]


def free_ram() -> int:
    """Bytes that could be had without swapping."""
    return int(psutil.virtual_memory().available)


class Room:
    """Grants slots their memory, one at a time and in the order in which they asked."""

    def __init__(
        self,
        settings: Settings,
        slots: Callable[[], Iterable[Slot]],
        leave: Callable[[Slot], Awaitable[None]],
        available: Available = free_ram,
    ) -> None:
        """`leave` lets the engine of a slot go."""
        self._budget = settings.memory_budget
        self._most = settings.max_models
        self._wait_s = settings.room_wait_s
        self._slots = slots
        self._leave = leave
        self.available = available
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._free_alone: int | None = None  # RAM, when no model was loaded
        self._gpus = 0  # bytes of all GPUs together; known once an engine has run
        self.training = 0  # bytes that a training takes of the same memory; see sharing.py

    def changed(self) -> None:
        """Somebody may have stopped using a model, or left: look again."""
        self._changed.set()

    def learn(self, slot: Slot) -> None:
        """Of an engine that is ready: what it says of this machine's GPUs."""
        engine = slot.engine
        if engine is not None and engine.ready.gpus:
            self._gpus = sum(gpu.total_bytes for gpu in engine.ready.gpus)

    async def grant(self, slot: Slot) -> None:
        """Wait until there is room for what `slot.need` says, and take it; `slot.granted` is then set.

        Raises: EngineUnavailable if there never is, or not within `room_wait_s`.
        """
        async with self._turn:
            deadline = time.monotonic() + self._wait_s
            while not self._fits(slot):
                victim = self._longest_unused(slot)
                if victim is not None:
                    log.info("%s leaves memory: %s needs room", victim.base.name, slot.base.name)
                    await self._leave(victim)
                    continue
                if self._partly(slot):
                    break
                self._refuse_hopeless(slot)
                self._changed.clear()
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._changed.wait()
                except TimeoutError:
                    raise self._no_room(slot, "and they are in use") from None
            slot.granted = slot.need

    def limit(self, slot: Slot) -> int | None:
        """What the engine in a slot may take in all; None: what is free of the GPU, which it measures."""
        if self._on_gpu(slot.options) and not self.training:
            return self._budget
        return max(slot.need.total, self._capacity(slot) - self._used(slot))

    @property
    def on_gpu(self) -> bool:
        """Whether this machine has a GPU that an engine has used."""
        return bool(self._gpus)

    def is_on_gpu(self, slot: Slot) -> bool:
        return self._on_gpu(slot.options)

    # ------------------------------------------------------------ inside

    def _others(self, slot: Slot) -> list[Slot]:
        return [other for other in self._slots() if other is not slot and other.holds_memory]

    def _fits(self, slot: Slot) -> bool:
        others = self._others(slot)
        if not others and not self.training:
            self._free_alone = self.available()
        if self._most is not None and len(others) >= self._most:
            return False
        alone = not others and self._budget is None  # what a machine can do with it, it may
        return alone or self._used(slot) + slot.need.total <= self._capacity(slot)

    def _used(self, slot: Slot) -> int:
        """By the others that share the budget with it."""
        pool = self._on_gpu(slot.options)
        same = [one for one in self._others(slot) if self._budget or self._on_gpu(one.options) == pool]
        # A budget is that of the models alone. Training takes GPU memory if there is a GPU, else RAM.
        trained = self.training if self._budget is None and pool == self.on_gpu else 0
        return sum(one.taken for one in same) + trained

    def _capacity(self, slot: Slot) -> int:
        if self._budget is not None:
            return self._budget
        if self._on_gpu(slot.options):
            return int(SHARE * self._gpus)
        if self._free_alone is None:
            self._free_alone = self.available()
        return int(SHARE * self._free_alone)

    def _on_gpu(self, options: EngineSettings) -> bool:
        return bool(self._gpus) and options.gpu_layers != 0

    def _partly(self, slot: Slot) -> bool:
        """A model that does not fit on the GPUs beside those in use can have some of its layers there."""
        counted_out = self._most is not None and len(self._others(slot)) >= self._most
        if counted_out or self._budget is not None or not self._on_gpu(slot.options):
            return False
        return slot.need.total <= SHARE * self.available()

    def _longest_unused(self, slot: Slot) -> Slot | None:
        unused = [other for other in self._others(slot) if not other.in_use]
        return min(unused, key=lambda one: one.last_used, default=None)

    def _refuse_hopeless(self, slot: Slot) -> None:
        if self._budget is not None and slot.need.total > self._budget:
            raise self._no_room(slot, "which is less")

    def _no_room(self, slot: Slot, why: str) -> EngineUnavailable:
        need, others = slot.need, self._others(slot)
        taken = [f"`{one.base.name}` {_gb(one.taken)}" for one in others]
        if self.training:
            taken.append(f"a training {_gb(self.training)}")
        names = ", ".join(taken) or "nothing"
        limits = [f"the memory budget is {_gb(self._capacity(slot))}"]
        if self._most is not None:
            limits.append(f"at most {self._most} models may be in memory")
        return EngineUnavailable(
            f"There is no room for the model `{slot.base.name}`: it needs about {_gb(need.total)} "
            f"({_gb(need.weights)} of weights, {_gb(need.cache)} of cache), {' and '.join(limits)}, {why}. "
            f"In memory: {names}.",
            param="model",
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 100_000_000 else f"{count / 1e6:.0f} MB"
