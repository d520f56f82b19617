"""One pass over inputs of embedding requests in a context of its own, and the pooling of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.context import ContextOptions
from llamaleon_server.binding.embedding import EmbeddingContext, Pooling, has_dense_layers, pooling_of
from llamaleon_server.binding.errors import DecodeError
from llamaleon_server.binding.loading import OUTPUT_BYTES, Loaded
from llamaleon_server.engine.adapters.bank import AdapterBank
from llamaleon_server.engine.sequence import AdapterSet

PIECE_TOKENS = 512  # most of one pass, an encoder's longer input aside
SEQUENCES, STATES = 64, 4  # most inputs of one pass; of a model that keeps a state for each
LEAST_CELLS = 512

Vector = NDArray[np.float32]


@dataclass(eq=False)
class Input:
    """One text: its tokens, how many of them are done, and what they gave so far."""

    tokens: list[int]
    done: int = 0
    total: Vector | None = None  # sum over the tokens, or what one of them gave, by the pooling

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.done


class EmbeddingPass:
    """Makes its context when it is first needed, and a larger one for a longer input.

    `cuts`: whether a long input may take several passes. Not with attention to what comes later, and not
    where layers of the model follow the pooling: then the graph pools, and sees each input whole.
    """

    def __init__(self, loaded: Loaded, bank: AdapterBank) -> None:
        self._loaded = loaded
        self._bank = bank
        model = loaded.model
        self.pooling = pooling_of(model)
        self.cuts = (
            loaded.context.generates and self.pooling is not Pooling.RANK and not has_dense_layers(model)
        )
        self.sequences = STATES if model.keeps_state else SEQUENCES
        fitting = OUTPUT_BYTES // (4 * model.vocabulary.size)  # a pass has a row of logits for every token
        self.tokens = max(self.sequences, min(PIECE_TOKENS, fitting))
        self._context: EmbeddingContext | None = None
        self._batch = Batch(0)
        self._cells = 0

    def run(self, adapters: AdapterSet, chosen: Sequence[tuple[Input, int]]) -> None:
        """Evaluate so many tokens of each input; only the first may be begun, or left undone.

        Raises: AdapterError, DecodeError, LoadError; then what was begun is lost.
        """
        self._bank.require(adapters)
        context, batch = self._context_for(chosen), self._batch
        batch.clear()
        for slot, (one, count) in enumerate(chosen):
            batch.add(one.tokens[one.done : one.done + count], one.done, slot, count)
        self._bank.arrange(context, [(adapters, batch.size, batch.size)])
        if not context.decode(batch):
            raise DecodeError(1)
        self._collect(context, chosen)

    def forget_begun(self) -> None:
        """The input that was left undone is not wanted any more."""
        if self._context is not None:
            self._context.remove(0)

    def close(self) -> None:
        """Give the memory back."""
        if self._context is not None:
            self._bank.contexts.remove(self._context)
            self._context.close()
            self._context = None

    def _collect(self, context: EmbeddingContext, chosen: Sequence[tuple[Input, int]]) -> None:
        rows = context.token_vectors(self._batch.size) if self.cuts else None
        at = 0
        for slot, (one, count) in enumerate(chosen):
            if rows is None:
                one.total = context.pooled(slot)
            else:
                one.total = self._pooled(one, rows[at : at + count])
            at += count
            one.done += count
            if not one.remaining:
                context.remove(slot)

    def _pooled(self, one: Input, rows: NDArray[np.float32]) -> Vector:
        """With what was there: the mean is divided at the end."""
        if self.pooling is Pooling.CLS and one.total is not None:
            return one.total
        if self.pooling in (Pooling.CLS, Pooling.LAST):
            row: Vector = rows[0 if self.pooling is Pooling.CLS else -1].copy()
            return row
        total: Vector = rows.sum(axis=0, dtype=np.float64).astype(np.float32)
        if one.total is not None:
            total += one.total
        return total

    def result(self, one: Input) -> Vector:
        """Of an input that is done."""
        assert one.total is not None, "it has been evaluated"
        means = self.cuts and self.pooling in (None, Pooling.MEAN)
        result: Vector = one.total / np.float32(len(one.tokens)) if means else one.total
        return result

    def _context_for(self, chosen: Sequence[tuple[Input, int]]) -> EmbeddingContext:
        first, _ = chosen[0]
        tokens = max(self.tokens, sum(count for _, count in chosen))
        cells = len(first.tokens) + self.tokens
        fits = self._batch.capacity >= tokens and (not self.cuts or self._cells >= cells)
        if self._context is not None and fits:
            return self._context
        self.close()
        tokens, self._cells = _power_of_two(tokens), _power_of_two(cells)
        pooling = Pooling.NONE if self.cuts else self.pooling or Pooling.MEAN
        options = ContextOptions(
            kv_tokens=max(self._cells, tokens),
            sequences=self.sequences,
            batch_tokens=tokens,
            outputs=tokens,
            threads=self._loaded.threads,
            mixer=self._loaded.mixer,
            pooling=pooling,
        )
        self._context = EmbeddingContext(self._loaded.model, options)
        self._bank.contexts.append(self._context)
        self._batch = Batch(tokens)
        return self._context


def _power_of_two(count: int) -> int:
    return max(LEAST_CELLS, 1 << (count - 1).bit_length())
