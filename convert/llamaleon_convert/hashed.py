"""Writing a file and hashing it at once."""

from __future__ import annotations

import hashlib
from threading import Thread
from typing import BinaryIO

Data = bytes | memoryview


class Hashed:
    """A file whose SHA-256 is computed in another thread while more is read and written: both take as long.

    What waits for it is handed over in pieces of PIECE_BYTES, of which there are never more than two.
    """

    PIECE_BYTES = 4 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._waiting: list[Data] = []
        self._bytes = 0
        self._thread: Thread | None = None

    def __enter__(self) -> Hashed:
        return self

    def __exit__(self, *_: object) -> None:
        self._hand_over()
        self._join()

    def write(self, data: Data) -> None:
        self._file.write(data)
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= self.PIECE_BYTES:
            self._hand_over()

    def hexdigest(self) -> str:
        """Of everything, once the `with` block has ended."""
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        self._join()
        pieces, self._waiting, self._bytes = self._waiting, [], 0
        self._thread = Thread(target=self._update, args=(pieces,))
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _update(self, pieces: list[Data]) -> None:
        for piece in pieces:
            self._digest.update(piece)
