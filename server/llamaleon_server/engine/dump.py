"""Logits of whole sequences, written to a file piece by piece between the steps of running requests."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np

from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.context import Context
from llamaleon_server.engine.protocol import DumpLogits
from llamaleon_server.engine.sequence import adapter_set

MakeContext = Callable[[int, int], AbstractContextManager[Context]]

PIECE_TOKENS = 64  # bounds how long other requests wait, and the logits in memory


class LogitsDump:
    """One request's work. `advance` does one piece; the archive appears under its name once complete."""

    def __init__(self, request: DumpLogits, vocabulary_size: int) -> None:
        self.request = request
        self.adapters = adapter_set(request.adapters)
        self._vocabulary_size = vocabulary_size
        self._target = Path(request.path)
        self._partial = self._target.with_name(self._target.name + ".partial")
        self._work: Generator[None] | None = None

    @property
    def longest(self) -> int:
        return max((len(tokens) for tokens in self.request.sequences), default=0)

    def advance(self, make_context: MakeContext, arrange: Callable[[Context, int], None]) -> bool:
        """Evaluate one piece. True once the file is there.

        `make_context(tokens, rows)` gives a context of our own; `arrange(context, tokens)` puts the adapters
        in place for a pass of it, again for every piece: between them others run.
        Raises: OSError, LoadError, DecodeError, AdapterError; what was written is gone then.
        """
        if self._work is None:
            self._work = self._pieces(make_context, arrange)
        try:
            next(self._work)
        except StopIteration:
            self._partial.replace(self._target)
            return True
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise
        return False

    def close(self) -> None:
        """Give up; what was written is gone then."""
        if self._work is not None:
            self._work.close()
        self._partial.unlink(missing_ok=True)

    def _pieces(self, make_context: MakeContext, arrange: Callable[[Context, int], None]) -> Generator[None]:
        with make_context(max(self.longest, 1), PIECE_TOKENS) as context:
            with zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED) as archive:
                for number, tokens in enumerate(self.request.sequences):
                    with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                        yield from self._sequence(member, tokens, context, arrange)
            with self._partial.open("rb") as written:
                os.fsync(written.fileno())

    def _sequence(
        self,
        member: IO[bytes],
        tokens: list[int],
        context: Context,
        arrange: Callable[[Context, int], None],
    ) -> Generator[None]:
        """Write one array, (n_tokens, n_vocab), yielding after each piece."""
        shape = (len(tokens), self._vocabulary_size)
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
        context.remove(0)
        batch = Batch(PIECE_TOKENS)
        for start in range(0, len(tokens), PIECE_TOKENS):
            piece = tokens[start : start + PIECE_TOKENS]
            batch.clear()
            batch.add(piece, start, 0, len(piece))
            arrange(context, len(piece))
            if not context.decode(batch):
                raise OSError("the cache made for this sequence does not hold it")
            member.write(context.logits(len(piece)).astype("<f4", copy=False).tobytes())
            yield
