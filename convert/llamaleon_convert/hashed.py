"""Writing a file and hashing it at once."""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread
from typing import BinaryIO

Data = bytes | memoryview


class Hashed:
    """A file whose SHA-256 another thread computes while more is read and written: both take as long."""

    MOST_WAITING = 8  # pieces, a tensor each: they are held in memory

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._written: Queue[Data | None] = Queue(self.MOST_WAITING)  # None: that was all
        self._thread = Thread(target=self._hash)

    def __enter__(self) -> Hashed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._written.put(None)
        self._thread.join()

    def write(self, data: Data) -> None:
        self._file.write(data)
        self._written.put(data)

    def hexdigest(self) -> str:
        """Of everything, once the `with` block has ended."""
        return self._digest.hexdigest()

    def _hash(self) -> None:
        while (data := self._written.get()) is not None:
            self._digest.update(data)
