"""Log-probabilities of the model's raw distribution: before penalties, temperature and truncation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamaleon_server.binding.vocabulary import Vocabulary
from llamaleon_server.engine.protocol import TokenLogprob
from llamaleon_server.engine.sampling.rows import NotFinite, Row, largest


@dataclass(frozen=True)
class Score:
    """Log-probability of a token in nats, and the best alternatives as (token id, log-probability)."""

    token: int
    logprob: float
    top: list[tuple[int, float]]

    def rendered(self, vocabulary: Vocabulary) -> TokenLogprob:
        top = [(token, vocabulary.rendered(token), logprob) for token, logprob in self.top]
        return TokenLogprob(self.token, vocabulary.rendered(self.token), self.logprob, top)


def score(row: Row, token: int, alternatives: int) -> Score:
    """Numbers only, so that any thread may do it. `row` (n_vocab,) are raw logits. Raises: NotFinite."""
    peak = row.max()
    if not np.isfinite(peak):
        raise NotFinite
    total = peak + np.log(np.exp(row - peak).sum())
    best = largest(row, alternatives) if alternatives else np.array([], np.intp)
    best = best[np.argsort(-row[best], kind="stable")]
    return Score(token, float(row[token] - total), [(int(t), float(row[t] - total)) for t in best])
