"""The adapters that are loaded, by the hash of their contents."""

from __future__ import annotations

import time
from pathlib import Path

from llamaleon_server.binding.adapters import Adapter, AdapterLoader
from llamaleon_server.binding.context import Context
from llamaleon_server.engine.protocol import AdapterLoaded
from llamaleon_server.engine.sequence import AdapterSet


class AdapterBank:
    """Loaded adapters. One that is asked to go leaves when the last sequence that uses it has ended."""

    def __init__(self, loader: AdapterLoader, context: Context) -> None:
        self._loader = loader
        self._context = context
        self._loaded: dict[str, Adapter] = {}
        self._leaving: dict[str, list[int]] = {}  # key -> requests that wait for the adapter to be gone

    @property
    def keys(self) -> list[str]:
        return list(self._loaded)

    def handles(self, adapters: AdapterSet) -> tuple[tuple[int, float], ...]:
        """What a context takes for a set of adapters: (handle, weight) pairs."""
        return tuple((self._loaded[use.key].handle, use.weight) for use in adapters)

    def serves(self, key: str) -> bool:
        """Whether a new request may use the adapter."""
        return key in self._loaded and key not in self._leaving

    def load(self, key: str, path: Path) -> tuple[AdapterLoaded, list[int]]:
        """Load a file unless its contents are loaded already, and take back an unload that is under way.

        Returns: what was loaded, and the unload requests that are thereby settled.
        Raises: AdapterError if it is refused.
        """
        began = time.monotonic()
        settled = self._leaving.pop(key, [])
        if key not in self._loaded:
            self._loaded[key] = self._loader.load(path)
        adapter = self._loaded[key]
        loaded = AdapterLoaded(
            key=key,
            rank=adapter.rank,
            tensors=adapter.tensors,
            bytes=adapter.bytes,
            load_s=time.monotonic() - began,
        )
        return loaded, settled

    def retire(self, key: str, request: int) -> bool:
        """Ask an adapter to leave. False if it is not loaded."""
        if key not in self._loaded:
            return False
        self._leaving.setdefault(key, []).append(request)
        return True

    def sweep(self, in_use: set[str]) -> list[int]:
        """Free the leaving adapters that nobody uses. Returns the requests to answer."""
        answered: list[int] = []
        for key in [key for key in self._leaving if key not in in_use]:
            answered += self._leaving.pop(key)
            adapter = self._loaded.pop(key)
            if self._context.uses(adapter.handle):
                self._context.use_adapters(())
            self._loader.free(adapter.handle)
        return answered

    @property
    def has_leaving(self) -> bool:
        return bool(self._leaving)
