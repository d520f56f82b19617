"""Runs what the scheduler chose: spans to a batch, a batch through llama.cpp, logits back.

Decides nothing. Spans carry their adapters; today one pass takes one set of them, and a pass that mixes
sets changes `_apply` and the grouping policy, not this interface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding.batch import Batch
from llamaleon_server.binding.context import Context
from llamaleon_server.engine.bank import AdapterBank
from llamaleon_server.engine.scheduler import Span
from llamaleon_server.engine.sequence import AdapterSet


@dataclass(frozen=True)
class SpanResult:
    """Logits of a span, (outputs, n_vocab), valid until the next pass; `index` is its last token's place."""

    span: Span
    index: int
    logits: NDArray[np.float32]


class Runner:
    """Owns the context and the batch."""

    def __init__(self, context: Context, bank: AdapterBank, batch_tokens: int) -> None:
        self._context = context
        self._bank = bank
        self._batch = Batch(batch_tokens)

    def run(self, spans: tuple[Span, ...]) -> list[SpanResult] | None:
        """One pass over all spans; None if the KV cache has no room for it, and then nothing has changed.

        Raises: DecodeError if llama.cpp fails; ValueError if spans of different adapters meet.
        """
        self._apply({span.adapters for span in spans})
        self._batch.clear()
        ends = []
        for span in spans:
            sequence = span.sequence
            assert sequence.slot is not None, "a scheduled sequence has a number"
            tokens = [*sequence.tokens[span.start : span.start + span.count - len(span.draft)], *span.draft]
            first = self._batch.add(tokens, span.start, sequence.slot, span.outputs)
            ends.append(first + span.count - 1)
        if not self._context.decode(self._batch):
            return None
        return self._split(spans, ends)

    def _apply(self, sets: set[AdapterSet]) -> None:
        if len(sets) != 1:
            raise ValueError(f"one pass takes one set of adapters, not {len(sets)}")
        self._context.use_adapters(self._bank.handles(sets.pop()))

    def _split(self, spans: tuple[Span, ...], ends: list[int]) -> list[SpanResult]:
        rows = sum(span.outputs for span in spans)
        logits = self._context.logits(rows) if rows else np.empty((0, 0), np.float32)
        results, row = [], 0
        for span, index in zip(spans, ends, strict=True):
            results.append(SpanResult(span, index, logits[row : row + span.outputs]))
            row += span.outputs
        return results
