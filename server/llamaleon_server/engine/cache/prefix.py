"""Finished sequences whose KV stays, so that a prompt beginning like them need not be computed again.

KV computed under an adapter is valid only for the same adapter contents at the same weight: both are part
of every comparison, and adapters are named by the hash of their contents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.cache.offload import LEAST_TOKENS, PrefixStore, Stored
from llamaleon_server.engine.cache.tokens import Tokens, common_length, longest
from llamaleon_server.engine.scheduling.cost import StepCost
from llamaleon_server.engine.sequence import AdapterSet, Sequence
from llamaleon_server.engine.status import PrefixStatus


@dataclass(frozen=True, eq=False)
class Prefix:
    """What lies in the cells of sequence number `slot`."""

    slot: int
    adapters: AdapterSet
    tokens: Tokens


@dataclass(frozen=True)
class Match:
    """The first `tokens` of a prompt are there: in the cells of number `slot`, or else in RAM."""

    tokens: int = 0
    slot: int | None = None
    stored: Stored | None = None

    @property
    def shared(self) -> int:
        """Cells that it saves; what comes back from RAM needs cells of its own."""
        return self.tokens if self.slot is not None else 0


NO_MATCH = Match()


class PrefixCache:
    """Least recently used goes first. `whole_only`: a cached state can be continued but not cut.

    `max_tokens` bounds the cells of all prefixes, because they are not free for the others: in one unified
    cache every token's attention walks past every occupied cell (2048 idle cells made a decode step of a
    small model 10 % slower with flash attention, 40 % without). What has to leave may go to RAM (`offload`).
    """

    def __init__(
        self,
        kv: KvCache,
        *,
        limit: int,
        max_tokens: int,
        whole_only: bool,
        ram_bytes: int = 0,
        cost: StepCost | None = None,
    ) -> None:
        """`limit` is the number of prefixes; `ram_bytes` bounds those in RAM, 0 for none."""
        self._kv = kv
        self._limit = limit
        self._max_tokens = max_tokens
        self._whole_only = whole_only
        self._cost = cost or StepCost()
        self._entries: OrderedDict[int, Prefix] = OrderedDict()  # by slot, oldest first
        self._of_set: dict[AdapterSet, dict[int, Prefix]] = {}
        self.store = PrefixStore(kv, ram_bytes, can_cut=not whole_only and kv.window == 0)
        self.tokens = 0  # cells of all prefixes
        self._hits = self._misses = self._hit_tokens = self._prompt_tokens = self._evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def status(self) -> PrefixStatus:
        """Counters since the start; may be called from another thread."""
        return PrefixStatus(
            prefixes=len(self._entries),
            tokens=self.tokens,
            limit_tokens=self._max_tokens,
            hits=self._hits,
            misses=self._misses,
            hit_tokens=self._hit_tokens,
            prompt_tokens=self._prompt_tokens,
            evictions=self._evictions,
            stored=len(self.store),
            stored_bytes=self.store.bytes,
            restored=self.store.restored,
        )

    # ------------------------------------------------------------ use

    def best(self, sequence: Sequence, running: Iterable[Sequence]) -> Match:
        """The longest usable beginning among cached and stored prefixes and those `running`, of its set."""
        limit = sequence.reusable_tokens
        if limit < 1:
            return NO_MATCH
        wanted = sequence.array()[:limit]
        donors = [(entry.tokens, entry.slot) for entry in self._of_set.get(sequence.adapters, {}).values()]
        for other in running:
            if other.slot is not None and other.computed:
                donors.append((other.array()[: other.computed], other.slot))
        if self._kv.window:  # of equals the one that ends first has the most of the window before that
            donors.sort(key=lambda donor: len(donor[0]))
        slot, length = longest(wanted, donors, whole=self._whole_only)
        stored = self.store.find(sequence.adapters, wanted)
        if stored is not None and self._pays(stored[0], stored[1], stored[1] - length):
            match = Match(stored[1], stored=stored[0])
        else:
            match = Match(length, slot) if slot is not None else NO_MATCH
        return self._outside_images(sequence, match)

    def _outside_images(self, sequence: Sequence, match: Match) -> Match:
        """What ends within an image is good up to the image; a state cannot be cut at all."""
        image = sequence.image_at(match.tokens)
        if image is None or image.start == match.tokens:
            return match
        if self._whole_only or image.start == 0:
            return NO_MATCH
        return replace(match, tokens=image.start)

    def _pays(self, stored: Stored, length: int, saved: int) -> bool:
        """Whether bringing it back takes less than computing the `saved` tokens."""
        if saved < LEAST_TOKENS or len(stored.tokens) > self._kv.free + self.reclaimable():
            return False
        fixed, whole = self._cost.predict(0, 0), self._cost.predict(saved, 0)
        if fixed is None or whole is None:
            return True
        return self.store.restore_s(stored) < whole - fixed

    def take(self, match: Match, slot: int, end: int | None = None) -> int:
        """Give the empty `slot` what was found, which ends before position `end`.

        Returns: how many tokens it then has.
        """
        there = False
        if match.slot is not None:
            there = self._kv.share(match.slot, slot, match.tokens, end)
            if match.slot in self._entries:
                self._entries.move_to_end(match.slot)
        elif match.stored is not None:
            # All of it comes back, before its end is cut off.
            while self._kv.free < len(match.stored.tokens) and self.evict():
                pass
            there = self.store.restore(match.stored, slot, match.tokens, end)
        return match.tokens if there else 0

    def count(self, sequence: Sequence, cached: int) -> None:
        """Note, once per request, what the cache did for it."""
        if sequence.reusable_tokens < 1:
            return
        self._prompt_tokens += sequence.prompt_tokens
        self._hit_tokens += cached
        self._hits += cached > 0
        self._misses += cached == 0

    def promised(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Sequence, int] | None:
        """The one of `running`, of its set, that is about to compute most of its beginning, and how much."""
        limit = sequence.reusable_tokens
        if limit < 1 or self._whole_only:
            return None
        wanted = sequence.array()[:limit]
        donors = ((other.array(), other) for other in running if other.remaining > 1)
        other, length = longest(wanted, donors)
        if other is None or length <= other.computed:
            return None
        return other, length

    # ------------------------------------------------------------ keep and drop

    def keep(self, sequence: Sequence) -> None:
        """Take over the cells of a finished sequence, or free them if they are not worth keeping."""
        slot, sequence.slot = sequence.slot, None
        assert slot is not None, "only an admitted sequence has cells"
        tokens = sequence.array()[: sequence.computed].copy()
        useless = self._limit == 0 or not len(tokens) or not sequence.request.cache_prompt
        if useless or self._covers(sequence.adapters, tokens):
            self._kv.close(slot)
            return
        if not self._whole_only:
            self._drop_beginnings_of(sequence.adapters, tokens)
        self._entries[slot] = new = Prefix(slot, sequence.adapters, tokens)
        self._of_set.setdefault(new.adapters, {})[slot] = new
        self._recount()
        while len(self._entries) > self._limit or self.tokens > self._max_tokens:
            if not self.evict(sparing=slot):
                break

    def _covers(self, adapters: AdapterSet, tokens: Tokens) -> bool:
        """Whether it is the beginning of a prefix that is here, which then counts as used."""
        if self._whole_only or self._kv.window:
            return False
        donors = ((entry.tokens, entry.slot) for entry in self._of_set.get(adapters, {}).values())
        slot, length = longest(tokens, donors)
        if slot is None or length < len(tokens):
            return False
        self._entries.move_to_end(slot)
        return True

    def _drop_beginnings_of(self, adapters: AdapterSet, tokens: Tokens) -> None:
        for entry in list(self._of_set.get(adapters, {}).values()):
            if common_length(entry.tokens, tokens) == len(entry.tokens):
                self._drop(entry)

    def reclaimable(self, *, sparing: int | None = None) -> int:
        """Cells that evicting every prefix other than `sparing` would free."""
        return self._kv.exclusive([slot for slot in self._entries if slot != sparing])

    def evict(self, *, sparing: int | None = None) -> bool:
        """Free the least recently used prefix other than `sparing`. False if there is none."""
        entry = next((entry for entry in self._entries.values() if entry.slot != sparing), None)
        if entry is None:
            return False
        self.store.put(entry.adapters, entry.tokens, entry.slot)
        self._drop(entry)
        self._evictions += 1
        return True

    def clear(self) -> None:
        """Forget all prefixes, those in RAM too."""
        for entry in list(self._entries.values()):
            self._drop(entry)
        self.store.clear()

    def _drop(self, entry: Prefix) -> None:
        del self._entries[entry.slot]
        siblings = self._of_set[entry.adapters]
        del siblings[entry.slot]
        if not siblings:
            del self._of_set[entry.adapters]
        self._kv.close(entry.slot)
        self._recount()

    def _recount(self) -> None:
        self.tokens = self._kv.held(self._entries)
