"""Prefixes that had to leave the KV cache, kept in RAM.

Measured with a 0.5 B model on two CPU cores, 1,000 tokens (12 MB in f16): 1 to 2 ms to copy out (20 where the
memory is fresh and the machine busy), 1 ms to copy back, 3,000 ms to compute again.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from llamaleon_server.engine.cache.kv import KvCache, State
from llamaleon_server.engine.cache.tokens import Tokens, common_length, longest
from llamaleon_server.engine.sequence import AdapterSet

LEAST_TOKENS = 32  # a shorter prefix is computed again
PAUSE_S = 0.005  # most time that copies out may add to a step on which running streams wait
FIRST_GUESS_S = 1e-9  # per byte, before any copy was measured
ADAPTS = 0.3


@dataclass(frozen=True, eq=False)
class Stored:
    """The state of a sequence that held `tokens`."""

    adapters: AdapterSet
    tokens: Tokens
    state: State


class PrefixStore:
    """Bounded by bytes; least recently used goes first. Never looks across adapter sets."""

    def __init__(self, kv: KvCache, limit_bytes: int, *, can_cut: bool) -> None:
        """`can_cut`: whether a stored state may be continued from an earlier token than its last."""
        self._kv = kv
        self._limit = limit_bytes
        self._can_cut = can_cut
        self._entries: OrderedDict[int, Stored] = OrderedDict()  # by id(), oldest first
        self._of_set: dict[AdapterSet, list[Stored]] = {}
        self._pause_s = math.inf
        self._out_s, self._back_s = FIRST_GUESS_S, FIRST_GUESS_S  # per byte
        self.bytes = self.restored = 0

    def __len__(self) -> int:
        return len(self._entries)

    def begin_step(self, *, streams_wait: bool) -> None:
        """From now on copies may take `PAUSE_S` in sum, or as long as they like if nobody waits for them."""
        self._pause_s = PAUSE_S if streams_wait else math.inf

    # ------------------------------------------------------------ out

    def put(self, adapters: AdapterSet, tokens: Tokens, slot: int) -> None:
        """Copy what lies in `slot`, which is about to be freed; what takes too long loses its end."""
        if len(tokens) < LEAST_TOKENS or self._limit == 0 or self._knows(adapters, tokens):
            return
        size = self._kv.state_bytes(slot)
        if size > self._limit:
            return
        if size * self._out_s > self._pause_s:
            keep = int(self._pause_s / (size * self._out_s) * len(tokens))
            # Vectors of an image, below zero, may share positions: where to cut is not known here.
            if not self._can_cut or keep < LEAST_TOKENS or tokens.min() < 0 or not self._kv.cut(slot, keep):
                return
            tokens = tokens[:keep]
            if self._knows(adapters, tokens):
                return
        began = time.perf_counter()
        state = self._kv.save(slot)
        seconds = time.perf_counter() - began
        if len(state) == 0:  # llama.cpp could not, and its log says why
            return
        self._pause_s -= seconds
        self._out_s += ADAPTS * (seconds / len(state) - self._out_s)
        self._add(Stored(adapters, tokens.copy(), state))

    def _knows(self, adapters: AdapterSet, tokens: Tokens) -> bool:
        """Whether it is the beginning of something stored, which then counts as used."""
        found, length = longest(tokens, ((entry.tokens, entry) for entry in self._of_set.get(adapters, ())))
        if found is None or length < len(tokens) or not (self._can_cut or length == len(found.tokens)):
            return False
        self._entries.move_to_end(id(found))
        return True

    def _add(self, new: Stored) -> None:
        for old in list(self._of_set.get(new.adapters, ())):
            if self._can_cut and common_length(old.tokens, new.tokens) == len(old.tokens):
                self._drop(old)
        while self._entries and self.bytes + len(new.state) > self._limit:
            self._drop(next(iter(self._entries.values())))
        self._entries[id(new)] = new
        self._of_set.setdefault(new.adapters, []).append(new)
        self.bytes += len(new.state)

    def _drop(self, entry: Stored) -> None:
        del self._entries[id(entry)]
        self.bytes -= len(entry.state)
        siblings = self._of_set[entry.adapters]
        siblings.remove(entry)
        if not siblings:
            del self._of_set[entry.adapters]

    def clear(self) -> None:
        for entry in list(self._entries.values()):
            self._drop(entry)

    # ------------------------------------------------------------ back

    def find(self, adapters: AdapterSet, wanted: Tokens) -> tuple[Stored, int] | None:
        """What begins most like `wanted`, and for how many tokens."""
        stored = self._of_set.get(adapters)
        if not stored:
            return None
        found, length = longest(wanted, ((entry.tokens, entry) for entry in stored), whole=not self._can_cut)
        return (found, length) if found is not None else None

    def restore_s(self, entry: Stored) -> float:
        """Seconds that copying it back should take.

        No more than copying out, which is measured again with whatever leaves: one slow copy back, on a busy
        machine, must not be the last.
        """
        return len(entry.state) * min(self._back_s, self._out_s)

    def restore(self, entry: Stored, slot: int, count: int, end: int | None = None) -> bool:
        """Fill the empty `slot` with its first `count` tokens, which end before position `end`.

        False, and it stays empty, if it cannot be.
        """
        began = time.perf_counter()
        if not self._kv.restore(slot, entry.state, len(entry.tokens), count, end):
            return False
        seconds = time.perf_counter() - began
        self._back_s += ADAPTS * (seconds / len(entry.state) - self._back_s)
        if id(entry) in self._entries:  # making room for it may just have pushed it out
            self._entries.move_to_end(id(entry))
        self.restored += 1
        return True
