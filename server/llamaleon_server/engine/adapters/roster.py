"""The adapters that an engine knows: how they come, and how they go once nobody uses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from llamaleon_server.binding.adapters import Adapter, AdapterLoader
from llamaleon_server.binding.errors import AdapterError, UnreadableAdapterError
from llamaleon_server.binding.model import Model
from llamaleon_server.engine.adapters.warm import Known, Read, WarmAdapters

Loaded = Known | AdapterError


class Roster:
    """One thread owns it; `keys` may be read from another."""

    def __init__(
        self,
        model: Model,
        warm: WarmAdapters,
        *,
        off: str | None,
        limit_ranks: int,
        changed: Callable[[], None],
        leaves: Callable[[str], None],
        unused: Callable[[Adapter], None],
    ) -> None:
        """`off`: why no adapter can be mixed, or None; `limit_ranks` the largest rank that can.

        `changed` is told when an adapter came, went or was pinned; `leaves` when one is about to go, `unused`
        when llama.cpp's copy of one is about to be freed, so that nothing looks at it any more.
        """
        self._loader = AdapterLoader(model)
        self._warm = warm
        self._off = off
        self._limit_ranks = limit_ranks
        self._changed = changed
        self._leaves = leaves
        self._unused = unused
        self.known: dict[str, Known] = {}
        self.pinned: set[str] = set()
        self._loading: dict[str, list[Callable[[Loaded], None]]] = {}
        self._unwanted: set[str] = set()  # unloaded while they were being loaded
        self._leaving: dict[str, list[int]] = {}  # key -> requests that wait for the adapter to be gone

    @property
    def keys(self) -> list[str]:
        return list(self.known)

    def serves(self, key: str) -> bool:
        """Whether a new request may use the adapter."""
        return key in self.known and key not in self._leaving

    def native(self, key: str) -> Adapter:
        """llama.cpp's own copy; the bank may have it too, if it is blended with one that it has not.

        Raises: UnreadableAdapterError if its file has gone or changed since it was checked.
        """
        known = self.known[key]
        if known.native is None:
            try:
                known.native = self._loader.load(known.file.path)
            except AdapterError as error:
                raise UnreadableAdapterError(str(error)) from error
        return known.native

    def make_cold(self, known: Known) -> None:
        """Leave it on disk only; what the bank has of it stays there."""
        known.weights = None
        if known.native is not None:
            self._unused(known.native)
            self._loader.free(known.native.handle)
            known.native = None

    def load(self, key: str, path: Path, *, pinned: bool | None, done: Callable[[Loaded], None]) -> list[int]:
        """Make an adapter known; `done` is told, perhaps later. Takes back an unload that is under way.

        Returns: the unload requests that are thereby settled.
        """
        settled = self._leaving.pop(key, [])
        self._unwanted.discard(key)

        def answer(result: Loaded) -> None:
            if isinstance(result, Known) and pinned is not None:
                self._pin(result, pinned)
            done(result)

        if key in self.known:
            known = self.known[key]
            known.file = dataclasses.replace(known.file, path=path)  # the same contents may have moved
            answer(known)
        elif key in self._loading:
            self._loading[key].append(answer)
        else:
            self._loading[key] = [answer]
            self._warm.read(path, lambda read: self._take(key, read))
        return settled

    def _take(self, key: str, read: Read | AdapterError) -> None:
        """A file was read: is it an adapter of this model, and what can it be used for?"""
        try:
            if isinstance(read, AdapterError):
                raise read
            known = self._checked(key, read)
        except AdapterError as error:
            result: Loaded = error
        else:
            result = known
            if key not in self._unwanted:
                self.known[key] = known
                self._changed()
            else:
                self.make_cold(known)
        self._unwanted.discard(key)
        for answer in self._loading.pop(key):
            answer(result)

    def _pin(self, known: Known, pinned: bool) -> None:
        known.pinned = pinned
        self.pinned.discard(known.key)
        if pinned and known.key in self.known:
            self.pinned.add(known.key)
        self._changed()

    def _checked(self, key: str, read: Read) -> Known:
        alone = read.alone or self._off
        if alone is None and read.file.rank > self._limit_ranks:
            alone = f"its rank {read.file.rank} exceeds the bank's {self._limit_ranks} (bank_ranks)"
        if alone:
            return Known(key, read.file, alone, native=self._loader.load(read.file.path))
        self._loader.require_used(read.file)
        return Known(key, read.file, None, read.weights)

    def retire(self, key: str, request: int) -> bool:
        """Ask an adapter to leave. False if there is nothing to wait for."""
        if key in self._loading:
            self._unwanted.add(key)
        if key not in self.known:
            return False
        self._leaving.setdefault(key, []).append(request)
        return True

    def sweep(self, in_use: set[str]) -> list[int]:
        """Let go of the leaving adapters that nobody uses. Returns the requests to answer."""
        answered: list[int] = []
        for key in [key for key in self._leaving if key not in in_use]:
            answered += self._leaving.pop(key)
            known = self.known.pop(key)
            self.pinned.discard(key)
            self._leaves(key)
            self.make_cold(known)
            self._changed()
        return answered

    @property
    def has_leaving(self) -> bool:
        return bool(self._leaving)
