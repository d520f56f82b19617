"""The adapters that lie in the banks: who gets which ranks, who must leave, what is still being copied.

Adapters of one type of tensor share a bank. A bank grows, or takes in another target module, by being made
anew, which re-reserves the graph; everything else is a copy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from llamaleon_server.binding.bank import FIRST_RANK, GRANULE, Bank
from llamaleon_server.binding.errors import BankTooLargeError
from llamaleon_server.binding.mixer import Mixer, Place
from llamaleon_server.binding.model import Model
from llamaleon_server.engine.adapters.ranks import RankSpace
from llamaleon_server.engine.adapters.warm import Known

FIRST_SLOTS = 8  # a new bank has room for this many adapters like the first
LEAST_RANKS = 64


@dataclass
class Hot:
    """`copying` is what is left of the copy into its place; None once it is there."""

    known: Known
    place: Place
    copying: Iterator[None] | None
    since: int  # the clock when it came
    copy_s: float = 0.0


class HotAdapters:
    """Placement only: it neither reads files nor knows about sequences."""

    def __init__(self, model: Model, mixer: Mixer, limit_ranks: int, let_go: Callable[[], None]) -> None:
        """`let_go` makes every context forget its active adapters: called before a bank is freed."""
        self._model = model
        self._mixer = mixer
        self._limit = max(limit_ranks // GRANULE * GRANULE, GRANULE)
        self._let_go = let_go
        self._spaces: dict[str, RankSpace] = {}
        self.entries: dict[str, Hot] = {}
        self.copies = self.evictions = self.rebuilds = 0
        self.last_copy_s = 0.0

    # These three may be asked for by another thread.

    @property
    def total_ranks(self) -> int:
        return sum(space.total for space in list(self._spaces.values()))

    @property
    def used_ranks(self) -> int:
        return sum(space.used for space in list(self._spaces.values()))

    @property
    def bytes(self) -> int:
        return sum(bank.bytes for bank in list(self._mixer.banks.values()))

    def close(self) -> None:
        self._let_go()
        for bank in self._mixer.banks.values():
            bank.close()
        self._mixer.banks.clear()
        self._mixer.rest()

    def ready(self, key: str) -> Place | None:
        """The place of an adapter that lies in its bank completely."""
        hot = self.entries.get(key)
        return hot.place if hot is not None and hot.copying is None else None

    @property
    def limit_ranks(self) -> int:
        return self._limit

    def enter(self, known: Known, protected: AbstractSet[str], clock: int) -> bool:
        """Find a place for a warm adapter and begin its copy. False if only protected ones could give way.

        Raises: AdapterError if the bank that it needs cannot be made.
        """
        weights = known.weights
        assert weights is not None, "only warm adapters enter"
        kind, rank = weights.kind, weights.rank
        bank = self._mixer.banks.get(kind)
        if bank is None or not known.file.targets <= bank.targets or rank > self._spaces[kind].total:
            self._rebuild(kind, known.file.targets, self._size_for(kind, rank))
        first = self._spaces[kind].take(rank)
        while first is None:
            victim = self._oldest(kind, protected)
            if victim is not None:
                self.leave(victim)
                self.evictions += 1
            elif self._spaces[kind].total < self._limit:
                self._rebuild(kind, frozenset(), min(self._limit, 2 * self._spaces[kind].total))
            else:
                return False
            first = self._spaces[kind].take(rank)
        place = Place(kind, first, self._spaces[kind].rounded(rank))
        copy = self._mixer.banks[kind].write(place.first, place.ranks, weights)
        self.entries[known.key] = Hot(known, place, copy, clock)
        return True

    def copy(self, key: str, deadline: float) -> bool:
        """Go on copying until `deadline` (monotonic). True once the adapter is there."""
        hot = self.entries[key]
        if hot.copying is None:
            return True
        began = time.monotonic()
        for _ in hot.copying:
            if time.monotonic() > deadline:
                hot.copy_s += time.monotonic() - began
                return False
        hot.copying = None
        self.copies += 1
        self.last_copy_s = hot.copy_s + time.monotonic() - began
        return True

    def rounded(self, rank: int) -> int:
        """The ranks that an adapter takes."""
        return -(-rank // GRANULE) * GRANULE

    def clear(self, kind: str) -> None:
        """Put everybody out of a bank."""
        for key in [key for key, hot in self.entries.items() if hot.place.kind == kind]:
            self.leave(key)

    def leave(self, key: str) -> None:
        """Give an adapter's ranks back; nothing if it has none."""
        hot = self.entries.pop(key, None)
        if hot is not None:
            self._spaces[hot.place.kind].give(hot.place.first, hot.place.ranks)
            self._mixer.forget()

    def longest_in(self, kind: str, spared: AbstractSet[str], before: int) -> str | None:
        """Of the adapters that came no later than `before`, the one that came first."""
        keys = [k for k, hot in self.entries.items() if hot.place.kind == kind and k not in spared]
        key = min(keys, key=lambda k: self.entries[k].since, default=None)
        return key if key is not None and self.entries[key].since <= before else None

    def _oldest(self, kind: str, protected: AbstractSet[str]) -> str | None:
        keys = [
            key
            for key, hot in self.entries.items()
            if hot.place.kind == kind and key not in protected and not hot.known.pinned
        ]
        return min(keys, key=lambda key: self.entries[key].known.last_used, default=None)

    def _size_for(self, kind: str, rank: int) -> int:
        old = self._spaces[kind].total if kind in self._spaces else 0
        return min(self._limit, max(old, LEAST_RANKS, FIRST_SLOTS * self.rounded(rank)))

    def _rebuild(self, kind: str, targets: frozenset[str], ranks: int) -> None:
        """Make a bank anew: its adapters must enter again, from RAM. Raises: AdapterError."""
        self.clear(kind)
        self._let_go()
        old = self._mixer.banks.pop(kind, None)
        self._spaces.pop(kind, None)
        if old is not None:
            targets |= old.targets
            old.close()
        self._mixer.forget()
        bank = self._mixer.banks[kind] = self._largest(kind, targets, ranks)
        self._spaces[kind] = RankSpace(FIRST_RANK, bank.ranks - FIRST_RANK, GRANULE)
        self.rebuilds += 1

    def _largest(self, kind: str, targets: frozenset[str], ranks: int) -> Bank:
        """As much of a bank as there is memory for: on a GPU the model and its cache may leave little.

        Raises: AdapterError if there is none for the smallest.
        """
        while True:
            try:
                return Bank(self._model, targets, kind, FIRST_RANK + ranks)
            except BankTooLargeError as error:
                if ranks == GRANULE:
                    raise
                ranks = self._limit = max(ranks // 2 // GRANULE, 1) * GRANULE
                sys.stderr.write(f"{error} Trying {ranks} ranks, which no bank will exceed from now on.\n")
