"""Answers in free text against their references: BLEU and chrF of sacrebleu, and ROUGE.

The reference implementation of ROUGE wants nltk and knows no letter beyond a to z; its definition is two
lines on rapidfuzz, whose words here are those of any script. The figures are those of rouge-score 0.1.2 with
such words: `tests/unit/server/evaluation/test_overlap.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llamaleon_server.evaluation.intervals import Array, Combine, divided

_WORD = re.compile(r"\w+")


def bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[Array, Combine]:
    """Corpus BLEU, 0 to 100: sacrebleu's own defaults (tokenised as `13a`, smoothed exponentially)."""
    from sacrebleu.metrics.bleu import BLEU

    return _of_sacrebleu(BLEU(), answers, references)


def chrf(answers: Sequence[str], references: Sequence[str]) -> tuple[Array, Combine]:
    """Corpus chrF2, 0 to 100: n-grams of up to six characters; for every language, however it inflects."""
    from sacrebleu.metrics.chrf import CHRF

    return _of_sacrebleu(CHRF(), answers, references)


def _of_sacrebleu(metric: Any, answers: Sequence[str], references: Sequence[str]) -> tuple[Array, Combine]:
    """Its statistics of every row, whose sums its own score is made of: that is how it resamples, too."""
    found = np.asarray(metric._extract_corpus_statistics(answers, [references]), dtype=np.float64)

    def combine(sums: Array) -> Array:
        return np.array([metric._compute_score_from_stats(list(row)).score for row in sums])

    return found, combine


def rouge_1(answer: str, reference: str) -> float:
    """F1 of the words in common.

    >>> round(rouge_1("el gato está en casa", "en casa está el perro"), 2)
    0.8
    """
    given, wanted = _words(answer), _words(reference)
    common = (Counter(given) & Counter(wanted)).total()
    return _f1(common, len(given), len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest sequence of words that both have in the same order, gaps allowed."""
    from rapidfuzz.distance import LCSseq

    given, wanted = _words(answer), _words(reference)
    return _f1(LCSseq.similarity(given, wanted), len(given), len(wanted))


def means(
    score: Callable[[str, str], float], answers: Sequence[str], references: Sequence[str]
) -> tuple[Array, Combine]:
    """A figure that is the mean of its rows, as a share (0 to 1)."""
    rows = [(score(answer, wanted), 1.0) for answer, wanted in zip(answers, references, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 2), ratio


def ratio(sums: Array) -> Array:
    """The first sum over the second."""
    return divided(sums[:, 0], sums[:, 1])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted) if given + wanted else 1.0
