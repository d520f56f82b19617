"""The token batch that one llama_decode takes, in arrays that numpy fills and llama.cpp reads in place."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

INT_POINTER = ctypes.POINTER(ctypes.c_int32)


class Batch:
    """Room for `capacity` tokens; every token belongs to exactly one sequence."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        # all of shape (capacity,)
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._output = np.zeros(capacity, np.int8)
        self._sequences_per_token = np.ones(capacity, np.int32)
        # llama.cpp wants a pointer to each token's list of sequences: here lists of one, in a row.
        self._sequence_at = (self._sequence.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self.native = native.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(INT_POINTER),
            embd=None,
            pos=self._position.ctypes.data_as(INT_POINTER),
            n_seq_id=self._sequences_per_token.ctypes.data_as(INT_POINTER),
            seq_id=self._sequence_at.ctypes.data_as(ctypes.POINTER(INT_POINTER)),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def clear(self) -> None:
        self.size = 0

    def add(self, tokens: Sequence[int], start: int, sequence: int, outputs: int) -> int:
        """Append tokens at positions `start`... of a sequence; the last `outputs` of them get logits.

        Returns: the index of the first of them in the batch.
        Raises: ValueError if there is no room.
        """
        first, last = self.size, self.size + len(tokens)
        if last > self.capacity:
            raise ValueError(f"{last} tokens do not fit a batch of {self.capacity}")
        if last - first == 1:  # what running sequences add: slices would cost three times as much
            self._token[first] = tokens[0]
            self._position[first] = start
            self._sequence[first] = sequence
            self._output[first] = outputs
            self.size = self.native.n_tokens = last
            return first
        self._token[first:last] = tokens
        self._position[first:last] = range(start, start + len(tokens))
        self._sequence[first:last] = sequence
        self._output[first:last] = 0
        if outputs:
            self._output[last - outputs : last] = 1
        self.size = self.native.n_tokens = last
        return first


class VectorBatch:
    """Vectors, (count, width), that one llama_decode takes in the place of tokens' embeddings.

    All of one sequence; none gets logits.
    """

    def __init__(self, vectors: NDArray[np.float32], sequence: int) -> None:
        count = len(vectors)
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._positions = np.zeros((1, count), np.int32)
        self._sequence = np.full(count, sequence, np.int32)
        self._output = np.zeros(count, np.int8)
        self._sequences_per_vector = np.ones(count, np.int32)
        self._sequence_at = (self._sequence.ctypes.data + 4 * np.arange(count)).astype(np.uintp)
        self.native = native.llama_batch(
            n_tokens=count,
            token=None,
            embd=self._vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=None,
            n_seq_id=self._sequences_per_vector.ctypes.data_as(INT_POINTER),
            seq_id=self._sequence_at.ctypes.data_as(ctypes.POINTER(INT_POINTER)),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def place(self, positions: int | NDArray[np.int32]) -> None:
        """At `positions`, (4, count) for M-RoPE; or one after the other, from a first one on."""
        if isinstance(positions, int):
            positions = np.arange(positions, positions + self.native.n_tokens, dtype=np.int32)
        self._positions = np.ascontiguousarray(positions, np.int32)
        self.native.pos = self._positions.ctypes.data_as(INT_POINTER)
