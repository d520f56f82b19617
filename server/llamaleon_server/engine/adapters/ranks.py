"""Which ranks of a bank are taken: first fit, neighbours merge again when they are given back."""

from __future__ import annotations


class RankSpace:
    """The ranks [first, first + total); everything in `granule`s."""

    def __init__(self, first: int, total: int, granule: int) -> None:
        self._granule = granule
        self.total = total
        self._free: list[tuple[int, int]] = [(first, total)] if total else []  # (first, ranks), ascending

    @property
    def used(self) -> int:
        return self.total - sum(ranks for _, ranks in self._free)

    def rounded(self, ranks: int) -> int:
        """What a request of this many takes."""
        return -(-ranks // self._granule) * self._granule

    def take(self, ranks: int) -> int | None:
        """First of `ranks` ranks in a row, now taken; None if there are not as many."""
        wanted = self.rounded(ranks)
        for index, (first, free) in enumerate(self._free):
            if free >= wanted:
                self._free[index : index + 1] = [(first + wanted, free - wanted)] if free > wanted else []
                return first
        return None

    def give(self, first: int, ranks: int) -> None:
        """Give back what `take` gave."""
        self._free = sorted([*self._free, (first, self.rounded(ranks))])
        merged: list[tuple[int, int]] = []
        for start, count in self._free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + count)
            else:
                merged.append((start, count))
        self._free = merged
