"""Writing a file, hashing it and sending it to the disk, all at once."""

from __future__ import annotations

import hashlib
import os
import sys
from queue import Queue
from threading import Thread
from typing import BinaryIO

Data = bytes | memoryview


class Hashed:
    """A file whose SHA-256 another thread computes while more is read and written: both take as long.

    The disk is told to begin, too. `fsync` at the end would else take a third of a conversion.
    """

    MOST_WAITING = 8  # pieces, a tensor each: they are held in memory
    FLUSHED_BYTES = 8 << 20  # at once

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._written: Queue[Data | None] = Queue(self.MOST_WAITING)  # None: that was all
        self._thread = Thread(target=self._hash)
        self._begin = self._end = 0  # of what the disk has not been told of

    def __enter__(self) -> Hashed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._written.put(None)
        self._thread.join()

    def write(self, data: Data) -> None:
        self._file.write(data)
        self._written.put(data)
        self._end += len(data)
        if self._end - self._begin >= self.FLUSHED_BYTES:
            self._flush()

    def hexdigest(self) -> str:
        """Of everything, once the `with` block has ended."""
        return self._digest.hexdigest()

    def _flush(self) -> None:
        """Begin to write back, without waiting. What is not yet on the disk also stays in memory."""
        if sys.platform == "linux":  # elsewhere it is another call, or none
            count = self._end - self._begin
            os.posix_fadvise(self._file.fileno(), self._begin, count, os.POSIX_FADV_DONTNEED)
        self._begin = self._end

    def _hash(self) -> None:
        while (data := self._written.get()) is not None:
            self._digest.update(data)
