"""Adapters in RAM: read by a thread of their own, bounded, the least recently used dropped first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from llamaleon_server.binding import adapter_file
from llamaleon_server.binding.adapter_file import AdapterFile
from llamaleon_server.binding.adapters import Adapter
from llamaleon_server.binding.cores import roam
from llamaleon_server.binding.errors import AdapterError
from llamaleon_server.binding.model import Model
from llamaleon_server.binding.weights import LoraWeights, kind_of, read_weights, why_alone

Result = TypeVar("Result")

Post = Callable[[Callable[[], None]], None]  # run something on the engine's thread


@dataclass(eq=False)
class Known:
    """A checked adapter, cold if only its file has it. `alone`: why it cannot share a pass."""

    key: str
    file: AdapterFile
    alone: str | None
    weights: LoraWeights | None = None  # ready to be copied into the bank
    native: Adapter | None = None  # loaded by llama.cpp itself, for passes without the bank
    pinned: bool = False
    last_used: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.kind = kind_of(self.file)

    @property
    def held_bytes(self) -> int:
        """What dropping it from RAM would free."""
        return sum(copy.bytes for copy in (self.weights, self.native) if copy is not None)


@dataclass(frozen=True)
class Read:
    file: AdapterFile
    alone: str | None
    weights: LoraWeights | None


class WarmAdapters:
    """Reads adapter files off the engine's thread: a cold adapter must not hold up running streams."""

    def __init__(self, model: Model, post: Post, limit_bytes: int) -> None:
        self._model = model
        self._post = post
        self._limit = limit_bytes
        self._reader = ThreadPoolExecutor(1, "adapter-reader", initializer=roam)
        self._reading: set[str] = set()

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def read(self, path: Path, done: Callable[[Read | AdapterError], None]) -> None:
        """Check and read a file; `done` is called on the engine's thread."""
        self._submit(lambda: self._read(path), done)

    def warm(self, known: Known, done: Callable[[AdapterError | None], None]) -> None:
        """Read a cold adapter again; nothing if that is under way. `done` as in `read`."""
        if known.key in self._reading:
            return
        self._reading.add(known.key)

        def take(result: LoraWeights | AdapterError) -> None:
            self._reading.discard(known.key)
            if isinstance(result, AdapterError):
                done(result)
                return
            known.weights = result
            done(None)

        self._submit(lambda: read_weights(known.file), take)

    @staticmethod
    def warm_now(known: Known) -> None:
        """Read a cold adapter here and now. Raises: AdapterError."""
        if known.weights is None:
            known.weights = read_weights(known.file)

    def excess(self, all_known: Iterable[Known], *, last: Set[str], never: Set[str]) -> list[Known]:
        """Those to make cold for the limit: the least recently used, those of `last` at the end."""
        held = [known for known in all_known if known.held_bytes]
        over = sum(known.held_bytes for known in held) - self._limit
        if over <= 0:
            return []
        found = []
        for known in sorted(held, key=lambda known: (known.key in last, known.last_used)):
            if over > 0 and known.key not in never:
                over -= known.held_bytes
                found.append(known)
        return found

    def _submit(self, work: Callable[[], Result], done: Callable[[Result | AdapterError], None]) -> None:
        def finished(future: Future[Result]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if isinstance(error, AdapterError):
                self._post(lambda: done(error))
            elif error is not None:
                self._post(lambda: done(AdapterError(f"the adapter cannot be read: {error}")))
            else:
                self._post(lambda: done(future.result()))

        self._reader.submit(work).add_done_callback(finished)

    def _read(self, path: Path) -> Read:
        file = adapter_file.check(path, self._model.header)
        alone = why_alone(file)
        return Read(file, alone, None if alone else read_weights(file))
