"""Memory that serving and training share: who gives way to whom, by one of three policies.

share  training begins beside the served models as soon as what it is estimated to need is free. Models
       that nobody uses leave for it, the one unused for longest first; it waits for those in use.
wait   serving comes first: as `share`, and only at a moment in which no model is in use.
yield  the GPU belongs to training while it lasts: every model leaves it, what still answers after a grace
       period is ended (503, which clients repeat), and models that are asked for meanwhile run on the CPU.
       Afterwards they return to the GPU with the next request. Without a GPU this is `share`.

In every case a training's estimate counts as taken while it runs, so that models loaded later find what is
left. Memory is that of the GPU if there is one, else RAM.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from llamaleon_server.errors import NotFound
from llamaleon_server.residents.memory import free_gpu_bytes

if TYPE_CHECKING:
    from llamaleon_server.residents.residents import Residents
    from llamaleon_server.residents.slot import Slot

log = logging.getLogger(__name__)

SHARE, WAIT, YIELD = "share", "wait", "yield"
LOOK_S = 0.5  # between two looks at the memory
GRACE_S = 120.0  # for answers that run on the GPU when training wants it for itself


class Sharing:
    """One per server. Its memory readers can be replaced: `free_gpu` and `residents.room.available`."""

    def __init__(self, residents: Residents, policy: str) -> None:
        self._residents = residents
        self._room = residents.room
        self._policy = policy
        self.free_gpu: Callable[[], int | None] = free_gpu_bytes

    @asynccontextmanager
    async def place(
        self, need: int | None, *, wanted: Callable[[], bool], say: Callable[[str], None], begun: bool
    ) -> AsyncIterator[bool]:
        """Inside the block a training has its place; False if it was no longer `wanted` before there was one.

        Args:
            need: bytes that it is estimated to take; None: unknown, so that only the policy's order holds.
            say: is told what it waits for, once for each cause.
            begun: it runs already (an earlier server started it): it keeps its place.
        """
        yields = self._policy == YIELD and self._room.on_gpu
        try:
            if yields:
                self._residents.off_gpu = True
            granted = begun or await self._granted(need, wanted, say, yields=yields)
            self._room.training = need or 0
            yield granted
        finally:
            self._room.training = 0
            self._residents.off_gpu = False
            self._room.changed()

    async def _granted(
        self, need: int | None, wanted: Callable[[], bool], say: Callable[[str], None], *, yields: bool
    ) -> bool:
        began = time.monotonic()
        told: str | None = None
        while wanted():
            obstacle = await (self._gpu_holders(began) if yields else self._obstacle(need))
            if obstacle is None:
                return True
            if obstacle != told:
                say(obstacle)
                told = obstacle
            await asyncio.sleep(LOOK_S)
        return False

    async def _gpu_holders(self, began: float) -> str | None:
        """Let models leave the GPU; who is still there."""
        for slot in self._slots(gpu=True):
            if not slot.in_use or time.monotonic() - began > GRACE_S:
                await self._leave(slot)
        names = _names(self._slots(gpu=True))
        return f"Training waits until the GPU is its own: {names} still answers." if names else None

    async def _obstacle(self, need: int | None) -> str | None:
        """Let unused models leave if that helps; what is in the way then."""
        slots = self._slots(gpu=self._room.on_gpu)
        busy = [slot for slot in slots if slot.in_use]
        if self._policy == WAIT and busy:
            return f"Training waits until nobody is served: {_names(busy)} answers."
        while need is not None and (free := await asyncio.to_thread(self._free)) is not None and free < need:
            unused = [slot for slot in self._slots(gpu=self._room.on_gpu) if not slot.in_use]
            if not unused:
                if not busy:  # there is nothing left to wait for: the trainer makes do with what there is
                    return None
                return f"Training waits for memory: it needs about {_gb(need)}, and {_names(busy)} is in use."
            await self._leave(min(unused, key=lambda slot: slot.last_used))
        return None

    def _free(self) -> int | None:
        """Bytes; None: nobody can tell."""
        return self.free_gpu() if self._room.on_gpu else self._room.available()

    def _slots(self, *, gpu: bool) -> list[Slot]:
        """Those that hold memory of that kind."""
        held = [slot for slot in self._residents.slots() if slot.holds_memory]
        return [slot for slot in held if self._room.is_on_gpu(slot)] if gpu else held

    async def _leave(self, slot: Slot) -> None:
        log.info("%s leaves memory: a training needs it", slot.base.name)
        try:
            await self._residents.unload(slot.base.name)
        except NotFound:  # it left by itself just now
            log.debug("%s has left already", slot.base.name)


def _names(slots: list[Slot]) -> str:
    return ", ".join(f"`{slot.base.name}`" for slot in slots)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 100_000_000 else f"{count / 1e6:.0f} MB"
