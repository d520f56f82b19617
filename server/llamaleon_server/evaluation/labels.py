"""Whether the answers are labels, and how often the right one was given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from llamaleon_server.evaluation.intervals import Array, divided

MOST_LABELS = 20
LONGEST_LABEL = 60  # characters
ROWS_A_LABEL = 2  # at least, on average: else every answer is one of a kind
OTHER = "(none of them)"
RULE = (
    f"the references are from 2 to {MOST_LABELS} different lines of at most {LONGEST_LABEL} characters, "
    f"with at least {ROWS_A_LABEL} rows to each on average"
)

_AROUND = re.compile(r"^[\s\"'`«“]+|[\s\"'`»”.]+$")


class Confusion(Struct, frozen=True):
    """`counts[i][j]`: rows whose right label is `labels[i]` and whose answer was `answers[j]`."""

    labels: list[str]
    answers: list[str]  # the labels, and `OTHER` where an answer was none of them
    counts: list[list[int]]


def normal(text: str) -> str:
    """What makes two answers the same label: not their case, nor quotes or a full stop around them.

    >>> normal(' "Urgente".')
    'urgente'
    """
    return _AROUND.sub("", text).casefold()


def labels_of(references: Sequence[str]) -> list[str] | None:
    """The labels as written, the most frequent first; None if `RULE` does not hold."""
    lines = [reference.strip() for reference in references]
    if any(not line or len(line) > LONGEST_LABEL or "\n" in line for line in lines):
        return None
    counts = Counter(normal(line) for line in lines)
    if not 2 <= len(counts) <= MOST_LABELS or len(lines) < ROWS_A_LABEL * len(counts):
        return None
    written: dict[str, str] = {}
    for line in lines:
        written.setdefault(normal(line), line)
    return [written[label] for label, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


def statistics(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Array:
    """`(n_rows, 3 * n_labels)`: right, wrongly given, and missed, of every label."""
    place = {normal(label): at for at, label in enumerate(labels)}
    made = np.zeros((len(answers), 3, len(labels)))
    for row, (answer, reference) in enumerate(zip(answers, references, strict=True)):
        given, wanted = place.get(normal(answer)), place[normal(reference)]
        if given == wanted:
            made[row, 0, wanted] = 1
            continue
        made[row, 2, wanted] = 1
        if given is not None:
            made[row, 1, given] = 1
    return made.reshape(len(answers), -1)


def macro_f1(sums: Array) -> Array:
    """The mean of the labels' F1; a label that is neither wanted nor given does not count."""
    right, wrong, missed = np.split(sums, 3, axis=1)
    scores = divided(2 * right, 2 * right + wrong + missed)
    return divided(np.nansum(scores, axis=1), np.isfinite(scores).sum(axis=1).astype(np.float64))


def confusion(answers: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Confusion:
    place = {normal(label): at for at, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for answer, reference in zip(answers, references, strict=True):
        counts[place[normal(reference)]][place.get(normal(answer), len(labels))] += 1
    if any(row[-1] for row in counts):
        return Confusion(list(labels), [*labels, OTHER], counts)
    return Confusion(list(labels), list(labels), [row[:-1] for row in counts])
