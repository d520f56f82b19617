"""Runs what the scheduler chose: spans to a batch, a batch through llama.cpp, logits back."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding.batch import Batch, VectorBatch
from llamaleon_server.binding.context import Context
from llamaleon_server.engine.adapters.bank import AdapterBank
from llamaleon_server.engine.scheduling.composition import Span


@dataclass(frozen=True)
class SpanResult:
    """Logits of a span, (outputs, n_vocab), valid until the next pass."""

    span: Span
    logits: NDArray[np.float32]


class Runner:
    """Owns the context and the batch. `decode_s` and `intercepted` are about the last pass."""

    def __init__(self, context: Context, bank: AdapterBank, batch_tokens: int) -> None:
        self._context = context
        self._bank = bank
        self._batch = Batch(batch_tokens)
        self.decode_s = 0.0
        self.intercepted = False

    def run(self, spans: tuple[Span, ...]) -> list[SpanResult] | None:
        """One pass over all spans; None if the KV cache has no room for it, and then nothing has changed.

        Raises: DecodeError if llama.cpp fails; ValueError if adapters meet that cannot share a pass.
        """
        shows = spans[0].image is not None
        self._batch.clear()
        for span in () if shows else spans:
            sequence = span.sequence
            assert sequence.slot is not None, "a scheduled sequence has a number"
            tokens = [*sequence.tokens[span.start : span.start + span.count - len(span.draft)], *span.draft]
            self._batch.add(tokens, sequence.position(span.start), sequence.slot, span.outputs)
        self.intercepted = self._bank.arrange(
            self._context, [(span.adapters, span.count, span.outputs) for span in spans]
        )
        began = time.perf_counter()
        decoded = self._show(spans[0]) if shows else self._context.decode(self._batch)
        results = self._split(spans) if decoded else None
        self.decode_s = time.perf_counter() - began
        return results

    def _show(self, span: Span) -> bool:
        """A pass over vectors of an image. False if there is no room for them."""
        image, slot = span.image, span.sequence.slot
        assert image is not None, "the caller has seen one"
        assert slot is not None, "a scheduled sequence has a number"
        picture, first = image.picture, span.start - image.start
        batch = VectorBatch(picture.vectors[first : first + span.count], slot)
        position = span.sequence.position(image.start)
        if picture.places is None:
            batch.place(position + first)
        else:
            batch.place(position + picture.places[:, first : first + span.count])
        return self._context.decode(batch, causal=not picture.whole)

    def _split(self, spans: tuple[Span, ...]) -> list[SpanResult]:
        rows = sum(span.outputs for span in spans)
        # Waits until the pass has been computed, where that happens on a device.
        logits = self._context.logits(rows) if rows else np.empty((0, 0), np.float32)
        results, row = [], 0
        for span in spans:
            results.append(SpanResult(span, logits[row : row + span.outputs]))
            row += span.outputs
        return results
