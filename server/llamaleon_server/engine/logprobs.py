"""Log-probabilities of the model's raw distribution: before penalties, temperature and truncation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.protocol import TokenLogprob


def token_logprobs(
    logits: NDArray[np.float32], chosen: Sequence[int], alternatives: int, vocabulary: Vocabulary
) -> list[TokenLogprob]:
    """Log-probability of `chosen[i]` under row i of `logits` (rows, n_vocab), with the best alternatives."""
    peaks = logits.max(axis=1, keepdims=True)
    totals = peaks + np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
    result = []
    for row, total, token in zip(logits, totals[:, 0], chosen, strict=True):
        best = np.argpartition(row, -alternatives)[-alternatives:] if alternatives else np.array([], np.int64)
        best = best[np.argsort(-row[best], kind="stable")]
        top = [(int(t), vocabulary.rendered(int(t)), float(row[t] - total)) for t in best]
        result.append(TokenLogprob(token, vocabulary.rendered(token), float(row[token] - total), top))
    return result
