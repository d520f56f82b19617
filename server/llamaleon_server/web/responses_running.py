"""Responses in the background: they go on when their client has gone, and can be watched and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

import msgspec

from llamaleon_server.errors import BadRequest, LlamaleonError
from llamaleon_server.registry.responses import ResponseStore
from llamaleon_server.web.responses_making import Making
from llamaleon_server.wire.responses_events import StreamEvent
from llamaleon_server.wire.responses_object import RUNNING, ResponseObject

log = logging.getLogger(__name__)

SWEEP_S = 24 * 3600.0  # how often old responses are forgotten
STOPPED = "The server was stopped while this response was running."


class Running:
    """One response. Its events stay in memory until it has ended."""

    def __init__(self, making: Making, store: ResponseStore, *, streamed: bool) -> None:
        self._making = making
        self._store = store
        self._streamed = streamed
        self._going = making.response  # as it was last while it was not over
        self._events: list[StreamEvent] = []
        self._changed = asyncio.Event()
        self._stopped = False
        self._ending = False  # it is being recorded
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def response(self) -> ResponseObject:
        """As it is now. It is over once that is recorded: who is told so may at once continue from it."""
        return self._making.response if self._ended else self._going

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=self.response.id)
        return self._task

    async def cancel(self, *, stopped: bool = False) -> ResponseObject:
        """End it now; `stopped`: because the server ends. Returns when that is recorded."""
        assert self._task is not None
        self._stopped = stopped
        if not self._ending:
            self._task.cancel()
        await asyncio.wait([self._task])
        return self.response

    async def follow(self, after: int = -1) -> AsyncGenerator[StreamEvent, None]:
        """Its events from the one after that number on, until it has ended.

        Raises: BadRequest if it ends before there is one.
        """
        at = after + 1
        while True:
            while at < len(self._events):
                yield self._events[at]
                at += 1
            if self._ended:
                check_after(after, len(self._events))
                return
            await self._changed.wait()

    async def _run(self) -> None:
        answers, last = self._making.answers(), list[StreamEvent]()
        try:
            async with contextlib.aclosing(answers):
                async for event in self._making.told(answers):
                    if self._goes_on():
                        self._add(event)
                    else:
                        last.append(event)
        except asyncio.CancelledError:
            if self._goes_on() and self._stopped:
                last += self._making.fail(LlamaleonError(STOPPED))
            elif self._goes_on():
                self._making.cancel()
        self._ending = True
        events = msgspec.json.encode([*self._events, *last]).decode() if self._streamed else None
        try:
            await asyncio.to_thread(self._store.finish, self._making.response, events)
        except Exception:  # a full disk, say: whoever watches must not wait for ever
            log.exception("%s has ended, and that cannot be recorded", self.response.id)
        self._ended = True
        for event in last:
            self._add(event)
        self._changed.set()

    def _goes_on(self) -> bool:
        return self._making.response.status in RUNNING

    def _add(self, event: StreamEvent) -> None:
        if not self._ended:
            self._going = self._making.response
        self._events.append(event)
        self._changed.set()
        self._changed = asyncio.Event()  # who waits has seen the old one


def check_after(after: int, events: int) -> None:
    """Raises: BadRequest if none of so many events follows the one with the number `after`."""
    if after + 1 >= events:
        raise BadRequest(f"The last event has the number {events - 1}.", param="starting_after")


class Background:
    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._running: dict[str, Running] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Only for the server that holds the lock of this home: what an earlier one was doing has failed."""
        await asyncio.to_thread(self._store.interrupted)
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await asyncio.gather(*(one.cancel(stopped=True) for one in list(self._running.values())))

    async def begin(self, making: Making, *, streamed: bool) -> Running:
        """Recorded before it begins, so that whoever was told its id can ask for it."""
        await asyncio.to_thread(self._store.add, making.response, making.inputs)
        running = Running(making, self._store, streamed=streamed)
        name = making.response.id
        self._running[name] = running
        running.start().add_done_callback(lambda _: self._running.pop(name, None))
        return running

    def find(self, response_id: str) -> Running | None:
        """None: it has ended, or never was."""
        return self._running.get(response_id)

    async def cancel(self, response_id: str) -> ResponseObject:
        """Raises: NotFound; BadRequest if it was not made in the background. Harmless if it has ended."""
        running = self.find(response_id)
        if running is not None:
            return await running.cancel()
        response = self._store.get(response_id)
        if not response.background:
            raise BadRequest(
                f"Response '{response_id}' was not made with `background: true`: there is nothing to cancel.",
                param="response_id",
            )
        return response

    async def _sweep(self) -> None:
        while True:
            await asyncio.to_thread(self._store.sweep)
            await asyncio.sleep(SWEEP_S)
