"""The device's memory: what its tensors occupy, and `torch.cuda`'s questions about it."""

from __future__ import annotations

import weakref
from threading import RLock
from typing import Any

import torch

from .allocator import MIB, Allocator, Block, Full

# The driver's context, the kernels that it loads, and cuBLAS's workspace: not torch's to give out.
CONTEXT = 600 * MIB


class Memory:
    """Of a card with so many bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.allocator = Allocator(capacity - CONTEXT)
        self._known: dict[int, Block] = {}
        self._lock = RLock()  # the backward pass has a thread of its own; a finaliser may come in between

    def note(self, held: torch.Tensor) -> None:
        """The numbers of a tensor of the device: counted once, as long as any tensor has them.

        Raises: torch.OutOfMemoryError.
        """
        storage = held.untyped_storage()
        key = storage._cdata
        with self._lock:
            if key in self._known:
                return
            try:
                self._known[key] = self.allocator.take(storage.nbytes())
            except Full:
                raise torch.OutOfMemoryError(self._message(storage.nbytes())) from None
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        with self._lock:
            self.allocator.give(self._known.pop(key))

    def _message(self, wanted: int) -> str:
        free = self.allocator.capacity - self.allocator.reserved
        return (
            f"CUDA out of memory. Tried to allocate {wanted / MIB:.2f} MiB. The pretended GPU has a total "
            f"capacity of {self.capacity / MIB:.0f} MiB of which {free / MIB:.2f} MiB is free"
        )

    def taken(self) -> dict[str, int]:
        """Bytes: the most that tensors occupied, the most that torch had from the driver, and of the card."""
        ours = self.allocator
        most = {"most_allocated": ours.most_allocated, "most_reserved": ours.most_reserved}
        return {**most, "context": CONTEXT, "capacity": self.capacity}

    def questions(self) -> dict[str, Any]:
        """Functions of `torch.cuda` by their names."""
        ours = self.allocator
        return {
            "mem_get_info": lambda _device=None: (self.capacity - CONTEXT - ours.reserved, self.capacity),
            "memory_allocated": lambda _device=None: ours.allocated,
            "max_memory_allocated": lambda _device=None: ours.most_allocated,
            "memory_reserved": lambda _device=None: ours.reserved,
            "max_memory_reserved": lambda _device=None: ours.most_reserved,
            "reset_peak_memory_stats": lambda _device=None: ours.forget_most(),
            "empty_cache": self._empty_cache,
            "set_per_process_memory_fraction": self._set_fraction,
        }

    def _empty_cache(self) -> None:
        with self._lock:
            self.allocator.release()

    def _set_fraction(self, fraction: float, _device: Any = None) -> None:
        self.allocator.capacity = min(int(fraction * self.capacity), self.capacity - CONTEXT)
