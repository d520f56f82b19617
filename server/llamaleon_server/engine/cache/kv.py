"""Who holds which cells of the shared KV cache.

Sequences may share their first cells, so the cells in use are fewer than the sum of the lengths. llama.cpp
does not tell how many are taken; the ledger counts them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

State = NDArray[np.uint8]


class SequenceMemory(Protocol):
    """What the cache needs of a context; positions count from 0."""

    def remove(self, sequence: int, start: int = 0) -> bool: ...
    def copy(self, source: int, target: int, end: int) -> None: ...
    def positions(self, sequence: int) -> tuple[int, int]: ...
    def wipe(self) -> None: ...
    def state_bytes(self, sequence: int) -> int: ...
    def save(self, sequence: int) -> State: ...
    def restore(self, sequence: int, state: State) -> bool: ...


@dataclass(eq=False, slots=True)
class _Segment:
    """Neighbouring cells that the same sequences hold."""

    count: int
    holders: set[int] = field(default_factory=set)


class CellLedger:
    """Counts cells by reference. llama.cpp places them as it likes; here they are only counted.

    A sequence is a list of segments. Those at the beginning may be shared: a segment then stands in the list
    of each of its holders. What a change costs depends on the number of segments, not of cells.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._segments: dict[int, list[_Segment]] = {}

    def length(self, sequence: int) -> int:
        return sum(segment.count for segment in self._segments.get(sequence, ()))

    def held(self, sequences: Iterable[int]) -> int:
        """Cells that any of the sequences holds."""
        return sum(segment.count for segment in self._of(sequences))

    def exclusive(self, sequences: Collection[int]) -> int:
        """Cells that would be free if all these sequences let go."""
        closed = set(sequences)
        return sum(segment.count for segment in self._of(closed) if segment.holders <= closed)

    def _of(self, sequences: Iterable[int]) -> Iterable[_Segment]:
        return {
            id(segment): segment for sequence in sequences for segment in self._segments.get(sequence, ())
        }.values()

    def extend(self, sequence: int, count: int) -> None:
        """Raises: ValueError if fewer than `count` cells are free."""
        if count > self.free:
            raise ValueError(f"{count} cells asked for, {self.free} are free")
        if count == 0:
            return
        segments = self._segments.setdefault(sequence, [])
        if segments and len(segments[-1].holders) == 1:
            segments[-1].count += count
        else:
            segments.append(_Segment(count, {sequence}))
        self.free -= count

    def share(self, source: int, target: int, count: int) -> None:
        """Let `target`, which must be empty, hold the first `count` cells of `source` too."""
        shared = self._segments[source][: self._split(source, count)]
        for segment in shared:
            segment.holders.add(target)
        if shared:
            self._segments[target] = shared

    def truncate(self, sequence: int, length: int = 0) -> None:
        segments = self._segments.get(sequence)
        if segments is None:
            return
        kept = self._split(sequence, length)
        dropped = segments[kept:]
        del segments[kept:]
        if not segments:
            del self._segments[sequence]
        for segment in dropped:
            segment.holders.discard(sequence)
            if not segment.holders:
                self.free += segment.count
        others = {holder for segment in dropped for holder in segment.holders}
        for holder in others | {sequence}:
            self._join(holder)

    def _split(self, sequence: int, length: int) -> int:
        """Let a segment end at `length`. Returns: how many segments the first `length` cells are."""
        end = 0
        for place, segment in enumerate(self._segments[sequence]):
            if end >= length:
                return place
            end += segment.count
            if end > length:
                rest = _Segment(end - length, set(segment.holders))
                segment.count -= rest.count
                for holder in segment.holders:
                    theirs = self._segments[holder]
                    theirs.insert(theirs.index(segment) + 1, rest)
                return place + 1
        return len(self._segments[sequence])

    def _join(self, sequence: int) -> None:
        """Neighbours that the same sequences hold become one segment again."""
        segments = self._segments.get(sequence, [])
        place = 1
        while place < len(segments):
            left, right = segments[place - 1], segments[place]
            if left.holders == right.holders:
                left.count += right.count
                for holder in right.holders:
                    self._segments[holder].remove(right)
            else:
                place += 1


class KvCache:
    """Sequence numbers and their cells: the ledger and llama.cpp's memory, always changed together."""

    def __init__(self, memory: SequenceMemory, total: int, sequences: int, window: int = 0) -> None:
        self._memory = memory
        self.window = window  # positions that a sliding-window model keeps; 0: all
        self._ledger = CellLedger(total)
        self._numbers = list(range(sequences))

    @property
    def total(self) -> int:
        return self._ledger.total

    @property
    def free(self) -> int:
        return self._ledger.free

    def length(self, sequence: int) -> int:
        return self._ledger.length(sequence)

    def held(self, sequences: Iterable[int]) -> int:
        """Cells that any of the sequences holds."""
        return self._ledger.held(sequences)

    def exclusive(self, sequences: Collection[int]) -> int:
        """Cells that would be free if all these sequences were closed."""
        return self._ledger.exclusive(sequences)

    def open(self) -> int:
        """A sequence number without cells. Raises: IndexError if all are taken."""
        return self._numbers.pop()

    def close(self, sequence: int) -> None:
        """Give the number and its cells back."""
        self.clear(sequence)
        self._numbers.append(sequence)

    def clear(self, sequence: int) -> None:
        self._memory.remove(sequence)
        self._ledger.truncate(sequence)

    def wipe(self) -> None:
        """Overwrite all cells with zeros; nobody may hold any."""
        assert self.free == self.total, "a cell is in use"
        self._memory.wipe()

    def extend(self, sequence: int, count: int) -> None:
        """Account for tokens that a decode has just added."""
        self._ledger.extend(sequence, count)

    def cut(self, sequence: int, length: int) -> bool:
        """Keep the first `length` tokens of a sequence. False if its memory cannot forget a part (recurrent
        layers): then nothing has changed.
        """
        if not self._memory.remove(sequence, length):
            return False
        self._ledger.truncate(sequence, length)
        return True

    def share(self, source: int, target: int, count: int, end: int | None = None) -> bool:
        """Give the empty `target` the first `count` tokens of `source`, up to the position `end`.

        False if the model's memory no longer has them all (a sliding window) or cannot cut a state at that
        point (recurrent layers): then `target` stays empty.
        """
        end = count if end is None else end
        self._memory.copy(source, target, end)
        if not self._has(target, end):
            self._memory.remove(target)
            return False
        self._ledger.share(source, target, count)
        return True

    def state_bytes(self, sequence: int) -> int:
        """How large `save` would be."""
        return self._memory.state_bytes(sequence)

    def save(self, sequence: int) -> State:
        """What `restore` needs to fill another sequence with the same cells. It costs a copy."""
        return self._memory.save(sequence)

    def restore(self, sequence: int, state: State, tokens: int, count: int, end: int | None = None) -> bool:
        """Fill the empty `sequence` with the first `count` of the `tokens` saved, up to the position `end`.

        False, and it stays empty, if the cells do not suffice or the memory cannot cut there (see `share`).
        """
        if tokens > self.free:
            return False
        end = count if end is None else end
        there = self._memory.restore(sequence, state)
        if there and count < tokens:
            self._memory.remove(sequence, end)
        if not there or not self._has(sequence, end):
            self._memory.remove(sequence)
            return False
        self._ledger.extend(sequence, count)
        return True

    def _has(self, sequence: int, end: int) -> bool:
        """Whether the memory holds all that is before this position, or all of it that its window needs."""
        first, last = self._memory.positions(sequence)
        return last == end - 1 and first <= max(0, end - self.window)
