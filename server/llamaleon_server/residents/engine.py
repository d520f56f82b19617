"""One running engine process, as the rest of the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from llamaleon_server.engine import protocol
from llamaleon_server.engine.protocol import AdapterUse, Delta, Failed, Generate, Ready, Reply
from llamaleon_server.engine.status import EngineStatus, StepStatus
from llamaleon_server.errors import ENGINE_FAILURES, EngineFailed, EngineUnavailable, LlamaleonError
from llamaleon_server.residents.channel import Channel
from llamaleon_server.residents.throughput import Meter

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class Engine:
    """Many requests over one channel. After its death every call raises `EngineFailed`."""

    def __init__(self, name: str, channel: Channel, ready: Ready) -> None:
        self.name = name
        self.ready = ready
        self.started = time.time()
        self.adapter_users: Counter[str] = Counter()  # key -> requests that hold it
        self.pinning = asyncio.Lock()  # held while pins are compared and changed
        self.meter = Meter()
        self.meter.add(StepStatus(), time.monotonic())
        self._channel = channel
        self._ids = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Delta | LlamaleonError]] = {}
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._adapters: dict[str, asyncio.Task[protocol.AdapterLoaded]] = {}
        self._paths: dict[str, Path] = {}  # by key, where the engine finds them
        self._pinned: dict[str, Path] = {}
        self._death: LlamaleonError | None = None
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, name: str, channel: Channel, timeout_s: float, progress: Callable[[float], None]
    ) -> Engine:
        """Wait until the model is loaded.

        Raises:
            EngineFailed: it cannot be loaded, or the process died; with the engine's own words.
            EngineUnavailable: not loaded within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    match await channel.receive():
                        case Ready() as ready:
                            return cls(name, channel, ready)
                        case protocol.LoadProgress(fraction):
                            progress(fraction)
                        case protocol.Fatal(message):
                            raise EngineFailed(f"The model `{name}` cannot be loaded: {message}")
                        case None:
                            await channel.close()
                            words = channel.last_words()
                            raise EngineFailed(f"The engine of `{name}` died while loading ({words}).")
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError):
                raise EngineUnavailable(f"The model `{name}` did not load in {timeout_s:.0f} s.") from error
            raise

    # ------------------------------------------------------------ state

    @property
    def pid(self) -> int | None:
        return self._channel.pid

    @property
    def alive(self) -> bool:
        return self._death is None

    @property
    def running(self) -> int:
        """Generations under way, waiting ones included."""
        return len(self._streams)

    @property
    def busy(self) -> bool:
        return bool(self._streams or self._replies)

    @property
    def adapter_keys(self) -> list[str]:
        return list(self._adapters)

    @property
    def pinned(self) -> Collection[str]:
        """Keys of the adapters that stay in the bank."""
        return self._pinned.keys()

    async def close(self) -> None:
        """Stop the process. What still runs fails with `EngineUnavailable`: it may be asked again."""
        self._die(EngineUnavailable(f"The model `{self.name}` was unloaded."))
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._channel.close()

    # ------------------------------------------------------------ requests

    async def generate(self, message: Generate) -> AsyncGenerator[Delta, None]:
        """Deltas until `finish`; the id is given here. Closing the generator cancels in the engine."""
        if self._death is not None:
            raise self._death
        number = next(self._ids)
        queue: asyncio.Queue[Delta | LlamaleonError] = asyncio.Queue()
        self._streams[number] = queue
        finished = False
        try:
            self._channel.send(msgspec.structs.replace(message, id=number))
            while not finished:
                item = await queue.get()
                # Over, whatever the consumer now does: nothing is left to cancel.
                finished = isinstance(item, LlamaleonError) or item.finish is not None
                if isinstance(item, LlamaleonError):
                    raise item
                yield item
        finally:
            del self._streams[number]
            if not finished and self.alive:
                self._channel.send(protocol.Cancel(number))

    async def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = False,
        parse_special: bool = True,
        breaks: Sequence[tuple[int, ...]] = (),
    ) -> list[list[int]]:
        """`breaks`: for each text the places over which no control token is read."""
        reply = await self._ask(
            lambda number: protocol.Tokenize(
                id=number,
                texts=list(texts),
                add_special=add_special,
                parse_special=parse_special,
                breaks=list(breaks),
            )
        )
        return _given(reply.tokens)

    async def detokenize(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token on its own; control tokens included."""
        reply = await self._ask(lambda number: protocol.Detokenize(id=number, tokens=list(tokens)))
        return _given(reply.pieces)

    async def load_adapter(self, key: str, path: Path) -> protocol.AdapterLoaded:
        """Once per engine, however many ask at once. Raises: AdapterRefused.

        Again if the file that it was loaded from is gone, because another version had the same contents: the
        engine may have to read it a second time.
        """
        task = self._adapters.get(key)
        if task is None or (self._paths[key] != path and not self._paths[key].exists()):
            self._paths[key] = path
            task = self._adapters[key] = asyncio.create_task(self._load_adapter(key, path))
            task.add_done_callback(lambda done: self._forget_failed(key, done))
        return await asyncio.shield(task)

    async def pin(self, key: str, path: Path) -> None:
        """Keep an adapter in the bank. Raises: AdapterRefused if there is no room for it."""
        await self._ask(lambda number: protocol.LoadAdapter(id=number, key=key, path=str(path), pinned=True))
        self._pinned[key] = path

    async def unpin(self, key: str) -> None:
        path = self._pinned.pop(key, None)
        if path is not None:
            await self._ask(
                lambda number: protocol.LoadAdapter(id=number, key=key, path=str(path), pinned=False)
            )

    @contextlib.contextmanager
    def holding(self, keys: Sequence[str]) -> Iterator[None]:
        """Inside the block these adapters are in use: forgotten ones are not unloaded yet."""
        self.adapter_users.update(keys)
        try:
            yield
        finally:
            self.adapter_users -= Counter(keys)  # which drops those that nobody holds any more

    async def unload_adapter(self, key: str) -> None:
        if self._adapters.pop(key, None) is not None:
            self._paths.pop(key, None)
            self._pinned.pop(key, None)
            await self._ask(lambda number: protocol.UnloadAdapter(id=number, key=key))

    async def dump_logits(
        self, sequences: Sequence[list[int]], adapters: tuple[AdapterUse, ...], path: Path
    ) -> None:
        """Cancelling this cancels in the engine."""
        await self._ask_or_cancel(
            protocol.DumpLogits(id=0, sequences=list(sequences), adapters=adapters, path=str(path))
        )

    async def status(self) -> EngineStatus:
        reply = await self._ask(protocol.Status)
        status = _given(reply.status)
        self.meter.add(status.step, time.monotonic())
        return status

    async def evaluate(self, message: protocol.Embed | protocol.Rank) -> Reply:
        """Vectors or scores; the id is given here. Cancelling this cancels in the engine."""
        return await self._ask_or_cancel(message)

    # ------------------------------------------------------------ inside

    async def _ask_or_cancel(self, message: protocol.Embed | protocol.Rank | protocol.DumpLogits) -> Reply:
        number = 0

        def numbered(given: int) -> protocol.ToEngine:
            nonlocal number
            number = given
            return msgspec.structs.replace(message, id=given)

        try:
            return await self._ask(numbered)
        except asyncio.CancelledError:
            if number and self.alive:
                self._channel.send(protocol.Cancel(number))
            raise

    async def _load_adapter(self, key: str, path: Path) -> protocol.AdapterLoaded:
        reply = await self._ask(lambda number: protocol.LoadAdapter(id=number, key=key, path=str(path)))
        return _given(reply.adapter)

    def _forget_failed(self, key: str, task: asyncio.Task[protocol.AdapterLoaded]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._adapters.get(key) is task:
            del self._adapters[key], self._paths[key]

    async def _ask(self, message: Callable[[int], protocol.ToEngine]) -> Reply:
        if self._death is not None:
            raise self._death
        number = next(self._ids)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            self._channel.send(message(number))
            return await future
        finally:
            del self._replies[number]

    async def _read(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self._dispatch(message)
        except Exception:  # of another package's engine: who waits for it must learn that it is over
            log.exception("the engine of %s cannot be understood", self.name)
        # Running requests learn it at once; exit status and last lines come a moment after the pipe closes.
        self._die(EngineFailed(f"The engine of `{self.name}` died; the next request starts it again."))
        await self._channel.close()
        log.error("the engine of %s died (%s)", self.name, self._channel.last_words())

    def _dispatch(self, message: protocol.FromEngine) -> None:
        match message:
            case protocol.Step(deltas):
                for delta in deltas:
                    if queue := self._streams.get(delta.id):  # absent: it was cancelled meanwhile
                        queue.put_nowait(delta)
            case Failed():
                self._fail(message.id, ENGINE_FAILURES[message.code](message.message, param=message.param))
            case Reply():
                future = self._replies.get(message.id)
                if future is not None and not future.done():
                    future.set_result(message)
            case protocol.Fatal(text):
                self._die(EngineFailed(f"The engine of `{self.name}` gave up: {text}"))

    def _fail(self, number: int, error: LlamaleonError) -> None:
        if queue := self._streams.get(number):
            queue.put_nowait(error)
        future = self._replies.get(number)
        if future is not None and not future.done():
            future.set_exception(error)

    def _die(self, error: LlamaleonError) -> None:
        if self._death is None:
            self._death = error
            for number in (*self._streams, *self._replies):
                self._fail(number, error)


def _given(value: Value | None) -> Value:
    """Which field of a `Reply` is set follows from the request; another one is the engine's mistake."""
    if value is None:
        raise EngineFailed("The engine sent an answer of the wrong kind.")
    return value
