"""Which waiting request starts next, and whether there is room for it.

The least served adapter set first, in a set the one that came first. A request starts if the KV cache can
hold it and all that run to their ends, as far as that can be foreseen; the number of sequence numbers is only
an upper bound. One that needs more cells than are free lets those of other sets pass. One whose beginning a
running sequence is just computing waits for that, while others pass.

But whoever is the first of its set and has been overtaken by `OVERTAKEN` later requests, because those sets
were served less or needed fewer cells, goes before all others, and all cells that come free wait for it.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator

from llamaleon_server.engine.cache.kv import KvCache
from llamaleon_server.engine.cache.offload import LEAST_TOKENS
from llamaleon_server.engine.cache.prefix import Match, PrefixCache
from llamaleon_server.engine.scheduling.fairness import FairShare
from llamaleon_server.engine.sequence import AdapterSet, Sequence, State

FORESEEN_TOKENS = 512  # cells set aside for what a sequence will generate; more are found, by eviction
OVERTAKEN = 32


class Queue:
    """Waiting requests: by adapter set, in order of arrival."""

    def __init__(self) -> None:
        self._of_set: dict[AdapterSet, list[Sequence]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for waiting in self._of_set.values() for sequence in waiting)

    def sets(self) -> list[AdapterSet]:
        return list(self._of_set)

    def of(self, adapters: AdapterSet) -> list[Sequence]:
        return self._of_set.get(adapters, [])

    def add(self, sequence: Sequence) -> None:
        insort(self._of_set.setdefault(sequence.adapters, []), sequence, key=lambda other: other.arrived)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        waiting = self._of_set[sequence.adapters]
        waiting.remove(sequence)
        self._count -= 1
        if not waiting:
            del self._of_set[sequence.adapters]


class Admission:
    """Takes requests out of the queue and gives them a sequence number and what the prefix cache has."""

    def __init__(self, kv: KvCache, prefixes: PrefixCache, fair: FairShare, most_running: int) -> None:
        self._kv = kv
        self._prefixes = prefixes
        self._fair = fair
        self._most_running = most_running
        self._promised = 0  # cells that those that run do not hold yet, but may come to need

    def admit(self, queue: Queue, running: list[Sequence]) -> None:
        """Move what may start from `queue` to the end of `running`."""
        if not queue or len(running) >= self._most_running:
            return
        self._promised = sum(foreseen(sequence) - sequence.computed for sequence in running)
        if running and self._available < 1:
            return
        peers: dict[AdapterSet, list[Sequence]] = {}
        ahead = dict.fromkeys(queue.sets(), 0)  # tokens that a set was promised by what it has running
        for other in running:
            peers.setdefault(other.adapters, []).append(other)
            if other.adapters in ahead:
                ahead[other.adapters] += other.remaining
        turns = [self._turn(queue, adapters, ahead) for adapters in ahead]
        heapq.heapify(turns)
        while turns and len(running) < self._most_running:
            *_, adapters = heapq.heappop(turns)
            mine = peers.setdefault(adapters, [])
            sequence = self._try(queue.of(adapters), mine, alone=not running)
            if sequence is None:
                continue
            if sequence.state is State.WAITING:  # there are not enough cells
                if sequence.overtaken >= OVERTAKEN:
                    return
                continue
            queue.remove(sequence)
            running.append(sequence)
            mine.append(sequence)
            ahead[adapters] += sequence.remaining
            if queue.of(adapters):
                heapq.heappush(turns, self._turn(queue, adapters, ahead))
            if _overtakes(sequence, queue):
                return

    def _turn(
        self, queue: Queue, adapters: AdapterSet, ahead: dict[AdapterSet, int]
    ) -> tuple[bool, int, float, int, AdapterSet]:
        """Sorts a set among the others: the least served, then the one whose request came first."""
        first = queue.of(adapters)[0]
        served = self._fair.served(adapters) + ahead[adapters]
        return first.overtaken < OVERTAKEN, served, first.arrived, first.id, adapters

    def _try(self, waiting: list[Sequence], peers: list[Sequence], *, alone: bool) -> Sequence | None:
        """Start the first that would gain nothing by waiting for one of its `peers`, if there are the cells.

        Returns: that one, started or not; None if all had better wait.
        """
        for sequence in waiting:
            if sequence.awaited:
                continue
            if not alone and foreseen(sequence) - sequence.reusable_tokens > self._available:
                return sequence  # whatever the prefix cache has
            match = self._prefixes.best(sequence, peers)
            promised = self._prefixes.promised(sequence, peers)
            if promised is not None and promised[1] >= match.tokens + LEAST_TOKENS:
                sequence.awaits = promised
                continue
            if self._make_room(foreseen(sequence) - match.shared, match.slot, alone=alone):
                self._start(sequence, match)
            return sequence
        return None

    @property
    def _available(self) -> int:
        """At most so many cells are left for those that wait."""
        return self._kv.free + self._prefixes.tokens - self._promised

    def _make_room(self, cells: int, donor: int | None, *, alone: bool) -> bool:
        """Whether so many cells are promised to nobody; cached prefixes give way, if that helps."""
        needed = cells + self._promised
        if self._kv.free >= needed:
            return True
        if self._kv.free + self._prefixes.reclaimable(sparing=donor) < needed:
            # Where nothing runs, waiting would not help: the donor gives way too, once shared.
            return alone
        while self._kv.free < needed and self._prefixes.evict(sparing=donor):
            pass
        return True

    def _start(self, sequence: Sequence, match: Match) -> None:
        sequence.slot = self._kv.open()
        end = sequence.position(match.tokens)
        sequence.computed = self._prefixes.take(match, sequence.slot, end)
        while self._kv.free < foreseen(sequence) - sequence.computed and self._prefixes.evict():
            pass
        if sequence.cached_tokens is None:
            self._prefixes.count(sequence, sequence.computed)
        sequence.begin()
        self._promised += foreseen(sequence) - sequence.computed


def _overtakes(started: Sequence, queue: Queue) -> bool:
    """Note whom a request has overtaken. Returns: whether that was once too often for one of them."""
    enough = False
    for adapters in queue.sets():
        first = queue.of(adapters)[0]
        if first.arrived < started.arrived and adapters != started.adapters and not first.awaited:
            first.overtaken += 1
            enough |= first.overtaken >= OVERTAKEN
    return enough


def foreseen(sequence: Sequence) -> int:
    """Cells that a sequence will hold, as far as it can be foreseen: most answers end before `max_tokens`."""
    return min(sequence.prompt_tokens + sequence.max_new, len(sequence.tokens) + FORESEEN_TOKENS)
