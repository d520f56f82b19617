"""Rows as the model takes them: what it reads, and what it is to predict where. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from .job import PreferenceRow, Row
from .order import Lengths


class Example(Struct, frozen=True):
    """A row ready for the model, cut behind the last token that counts: later ones change nothing.

    The model reads `tokens`; at position `positions[i]` its prediction of `targets[i]` counts `weights[i]`.
    The last three have the same length, at least 1.
    """

    tokens: list[int]
    positions: list[int]
    targets: list[int]
    weights: list[float]

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self,)

    @property
    def weight(self) -> float:
        """How much the row counts in the mean loss of a step."""
        return sum(self.weights)


class Preference(Struct, frozen=True):
    """Two answers to one prompt, the first liked better.

    `index` counts the job's pairs from 0, held-out ones last.
    """

    chosen: Example
    rejected: Example
    index: int

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self.chosen, self.rejected)

    @property
    def weight(self) -> float:
        return 1.0


Item = Example | Preference


def lengths(item: Item) -> Lengths:
    return tuple(len(example.tokens) for example in item.sequences)


def longest(item: Item) -> int:
    """Tokens of the item's longest sequence."""
    return max(lengths(item))


def token_count(item: Item) -> int:
    return sum(lengths(item))


def example(row: Row, max_tokens: int) -> Example | None:
    """None when no token counts within `max_tokens`."""
    # Nothing predicts the first token, so its weight cannot count.
    counted = [index for index in range(1, min(len(row.tokens), max_tokens)) if row.weights[index] > 0]
    if not counted:
        return None
    return Example(
        tokens=row.tokens[: counted[-1]],
        positions=[index - 1 for index in counted],
        targets=[row.tokens[index] for index in counted],
        weights=[row.weights[index] for index in counted],
    )


def preference(row: PreferenceRow, max_tokens: int, index: int) -> Preference | None:
    """None when either answer has no token that counts within `max_tokens`."""
    chosen, rejected = example(row.chosen, max_tokens), example(row.rejected, max_tokens)
    return None if chosen is None or rejected is None else Preference(chosen, rejected, index)


def is_raw_text(row: Row) -> bool:
    """Every token counts: there is no prompt, so any stretch of the row is as good to learn from."""
    return all(weight > 0 for weight in row.weights)


def text_pieces(row: Row, max_tokens: int) -> Iterator[Row]:
    """Stretches of at most `max_tokens`, overlapping by one: every token but the first is predicted once.

    >>> [piece.tokens for piece in text_pieces(Row([1, 2, 3, 4, 5, 6], [1.0] * 6), 3)]
    [[1, 2, 3], [3, 4, 5], [5, 6]]
    """
    for start in range(0, len(row.tokens) - 1, max_tokens - 1):
        end = start + max_tokens
        yield Row(row.tokens[start:end], row.weights[start:end])
