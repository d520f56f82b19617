"""torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp), its arithmetic without the memory.

Memory comes from the driver in segments, small ones for what is at most 1 MiB. A tensor takes the smallest
free block that is large enough, whose rest is split off; free blocks beside each other become one. Segments
go back only when nothing fits any more. What lies free between blocks is why a GPU needs more than its
tensors.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 2**20
ROUNDING, SMALL, SMALL_SEGMENT = 512, MIB, 2 * MIB
MEDIUM, MEDIUM_SEGMENT, LARGE_ROUNDING = 10 * MIB, 20 * MIB, 2 * MIB


class Full(Exception):
    """Nothing fits any more."""


@dataclass(eq=False)
class Block:
    start: int
    size: int
    small: bool
    free: bool = False
    before: Block | None = field(default=None, repr=False)
    after: Block | None = field(default=None, repr=False)


Key = tuple[int, int]  # size, start


class Allocator:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.allocated = self.most_allocated = 0
        self.reserved = self.most_reserved = 0
        self._next_start = 0
        self._free: dict[bool, list[Key]] = {True: [], False: []}  # by pool; the smallest that fits is taken
        self._blocks: dict[int, Block] = {}  # free ones, by their start

    def take(self, size: int) -> Block:
        """Raises: Full."""
        size = -(-max(size, 1) // ROUNDING) * ROUNDING
        block = self._fitting(size) or self._segment(size)
        rest = block.size - size
        if rest >= (ROUNDING if block.small else SMALL + 1):
            split = Block(block.start + size, rest, block.small, before=block, after=block.after)
            if block.after is not None:
                block.after.before = split
            block.after, block.size = split, size
            self._keep(split)
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)
        return block

    def give(self, block: Block) -> None:
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            self._drop(before)
            block.start, block.size, block.before = before.start, before.size + block.size, before.before
            if block.before is not None:
                block.before.after = block
        if after is not None and after.free:
            self._drop(after)
            block.size, block.after = block.size + after.size, after.after
            if block.after is not None:
                block.after.before = block
        self._keep(block)

    def release(self) -> None:
        """Segments of which nothing is used go back to the driver."""
        for block in list(self._blocks.values()):
            if block.before is None and block.after is None:
                self._drop(block)
                self.reserved -= block.size

    def forget_most(self) -> None:
        self.most_allocated, self.most_reserved = self.allocated, self.reserved

    def _fitting(self, size: int) -> Block | None:
        free = self._free[size <= SMALL]
        place = bisect_left(free, (size, -1))
        if place == len(free):
            return None
        block = self._blocks[free[place][1]]
        self._drop(block)
        return block

    def _segment(self, size: int) -> Block:
        """Raises: Full."""
        if size <= SMALL:
            wanted = SMALL_SEGMENT
        elif size < MEDIUM:
            wanted = MEDIUM_SEGMENT
        else:
            wanted = -(-size // LARGE_ROUNDING) * LARGE_ROUNDING
        if self.reserved + wanted > self.capacity:
            self.release()
        if self.reserved + wanted > self.capacity:
            raise Full
        self.reserved += wanted
        self.most_reserved = max(self.most_reserved, self.reserved)
        self._next_start += wanted
        return Block(self._next_start - wanted, wanted, size <= SMALL)

    def _keep(self, block: Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.start))
        self._blocks[block.start] = block

    def _drop(self, block: Block) -> None:
        block.free = False
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.start))]
        del self._blocks[block.start]
