"""Finished sequences whose KV stays, so that a prompt beginning like them need not be computed again.

KV computed under an adapter is valid only for the same adapter contents at the same weight: both are part
of every comparison, and adapters are named by the hash of their contents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.engine.kv import KvCache
from llamaleon_server.engine.protocol import PrefixStatus
from llamaleon_server.engine.sequence import AdapterSet, Sequence

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Prefix:
    """What lies in the cells of sequence number `slot`."""

    slot: int
    adapters: AdapterSet
    tokens: Tokens


class PrefixCache:
    """Least recently used goes first. `whole_only`: a cached state can be continued but not cut.

    `max_tokens` bounds the cells of all prefixes, because they are not free for the others: in one unified
    cache every token's attention walks past every occupied cell (2048 idle cells made a decode step of a
    small model 10 % slower with flash attention, 40 % without).
    """

    def __init__(self, kv: KvCache, *, limit: int, max_tokens: int, whole_only: bool) -> None:
        self._kv = kv
        self._limit = limit
        self._max_tokens = max_tokens
        self._whole_only = whole_only
        self._entries: OrderedDict[int, Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def tokens(self) -> int:
        return sum(len(entry.tokens) for entry in list(self._entries.values()))

    def status(self) -> PrefixStatus:
        """Counters since the start; may be called from another thread."""
        return PrefixStatus(prefixes=len(self), tokens=self.tokens, limit_tokens=self._max_tokens)

    def best(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[int, int] | None:
        """(slot, tokens) of the longest usable beginning among cached and running sequences."""
        limit = sequence.reusable_tokens
        if limit < 1:
            return None
        wanted = np.array(sequence.tokens[:limit], np.int32)
        donors = list(self._entries.values()) + [
            Prefix(other.slot, other.adapters, np.array(other.tokens[: other.computed], np.int32))
            for other in running
            if other.slot is not None and other.adapters == sequence.adapters and other.computed
        ]
        found = [
            (self._usable(donor.tokens, wanted), donor.slot)
            for donor in donors
            if donor.adapters == sequence.adapters
        ]
        length, slot = max(found, default=(0, 0))
        if length == 0:
            return None
        if slot in self._entries:
            self._entries.move_to_end(slot)
        return slot, length

    def _usable(self, cached: Tokens, wanted: Tokens) -> int:
        length = min(len(cached), len(wanted))
        differs = np.flatnonzero(cached[:length] != wanted[:length])
        common = int(differs[0]) if len(differs) else length
        return common if not self._whole_only or common == len(cached) else 0

    def keep(self, sequence: Sequence) -> None:
        """Take over the cells of a finished sequence, or free them if they are not worth keeping."""
        slot, sequence.slot = sequence.slot, None
        assert slot is not None, "only an admitted sequence has cells"
        if self._limit == 0 or not sequence.computed or not sequence.request.cache_prompt:
            self._kv.close(slot)
            return
        tokens = np.array(sequence.tokens[: sequence.computed], np.int32)
        if not self._whole_only:
            self._drop_beginnings_of(sequence.adapters, tokens)
        while len(self._entries) >= self._limit or self.tokens + len(tokens) > self._max_tokens:
            if not self.evict():
                break
        self._entries[slot] = Prefix(slot, sequence.adapters, tokens)

    def _drop_beginnings_of(self, adapters: AdapterSet, tokens: Tokens) -> None:
        for entry in list(self._entries.values()):
            covered = len(entry.tokens) <= len(tokens) and entry.adapters == adapters
            if covered and np.array_equal(entry.tokens, tokens[: len(entry.tokens)]):
                del self._entries[entry.slot]
                self._kv.close(entry.slot)

    def evict(self, *, sparing: int | None = None) -> bool:
        """Free the least recently used prefix other than `sparing`. False if there is none."""
        slot = next((slot for slot in self._entries if slot != sparing), None)
        if slot is None:
            return False
        del self._entries[slot]
        self._kv.close(slot)
        return True
