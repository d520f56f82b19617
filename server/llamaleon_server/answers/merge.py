"""Several generations read as one stream, in the order in which their deltas arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar

from llamaleon_server.engine.protocol import Delta

Item = tuple[int, Delta]
T = TypeVar("T")


async def merged(
    generations: Sequence[AsyncGenerator[Delta, None]], at_once: int
) -> AsyncGenerator[Item, None]:
    """(index, delta) of all, `at_once` of them running; the first failure ends all.

    Closing closes every generation.
    """
    queue: asyncio.Queue[Item | Exception | None] = asyncio.Queue()
    gate = asyncio.Semaphore(at_once)
    tasks = [asyncio.create_task(_read(index, one, queue, gate)) for index, one in enumerate(generations)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(
    index: int,
    generation: AsyncGenerator[Delta, None],
    queue: asyncio.Queue[Item | Exception | None],
    gate: asyncio.Semaphore,
) -> None:
    try:
        async with gate, contextlib.aclosing(generation):
            async for delta in generation:
                queue.put_nowait((index, delta))
        queue.put_nowait(None)
    except Exception as error:  # handed to the reader, who raises it
        queue.put_nowait(error)


class Begun(Generic[T]):
    """A stream whose first item is there already."""

    def __init__(self, first: T, stream: AsyncGenerator[T, None]) -> None:
        self._first: T | None = first
        self._stream = stream

    def __aiter__(self) -> Begun[T]:
        return self

    async def __anext__(self) -> T:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._stream)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def begin(stream: AsyncGenerator[T, None]) -> Begun[T]:
    """Wait for the first item, so that what fails before any output is a plain error answer."""
    try:
        return Begun(await anext(stream), stream)
    except BaseException:
        await stream.aclose()
        raise
