"""Who holds which cells of the shared KV cache.

Sequences may share their first cells, so the cells in use are fewer than the sum of the lengths.
llama.cpp does not tell how many are taken; the ledger counts them, cell by cell.
"""

from __future__ import annotations

from typing import Protocol


class SequenceMemory(Protocol):
    """What the cache needs of a context; positions count from 0."""

    def remove(self, sequence: int, start: int = 0) -> bool: ...
    def copy(self, source: int, target: int, end: int) -> None: ...
    def positions(self, sequence: int) -> tuple[int, int]: ...


class CellLedger:
    """Counts cells by reference. A cell's number is ours alone; llama.cpp places them as it likes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._holders = [0] * total
        self._unused = list(range(total))
        self._cells: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        return len(self._unused)

    def length(self, sequence: int) -> int:
        return len(self._cells.get(sequence, ()))

    def extend(self, sequence: int, count: int) -> None:
        """Raises: ValueError if fewer than `count` cells are free."""
        if count > self.free:
            raise ValueError(f"{count} cells asked for, {self.free} are free")
        cells = self._cells.setdefault(sequence, [])
        for _ in range(count):
            cell = self._unused.pop()
            self._holders[cell] = 1
            cells.append(cell)

    def share(self, source: int, target: int, count: int) -> None:
        """Let `target`, which must be empty, hold the first `count` cells of `source` too."""
        cells = self._cells[source][:count]
        for cell in cells:
            self._holders[cell] += 1
        self._cells[target] = cells

    def truncate(self, sequence: int, length: int = 0) -> None:
        cells = self._cells.get(sequence, [])
        while len(cells) > length:
            cell = cells.pop()
            self._holders[cell] -= 1
            if self._holders[cell] == 0:
                self._unused.append(cell)
        if not cells:
            self._cells.pop(sequence, None)


class KvCache:
    """Sequence numbers and their cells: the ledger and llama.cpp's memory, always changed together."""

    def __init__(self, memory: SequenceMemory, total: int, sequences: int, window: int = 0) -> None:
        self._memory = memory
        self._window = window
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

    def share(self, source: int, target: int, count: int) -> bool:
        """Give the empty `target` the first `count` tokens of `source`.

        False if the model's memory no longer has them all (a sliding window) or cannot cut a state at that
        point (recurrent layers): then `target` stays empty.
        """
        self._memory.copy(source, target, count)
        first, last = self._memory.positions(target)
        if last != count - 1 or first > max(0, count - self._window):
            self._memory.remove(target)
            return False
        self._ledger.share(source, target, count)
        return True
