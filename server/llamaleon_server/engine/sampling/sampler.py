"""From one row of logits to one token: llama.cpp's chain, computed with numpy.

llama.cpp's own samplers first build an array of every token of the vocabulary with its logit and then walk
it one by one: over a millisecond a token at temperature 1 with 152,000 tokens, eight times what this takes.
The rules are llama.cpp's, and the tests hold them against its samplers; only the random numbers differ.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.engine.sampling.grammar import Grammar
from llamaleon_server.engine.sampling.rows import NotFinite, Row, draw_index, largest, nucleus

REPEAT_WINDOW_TOKENS = 64  # llama.cpp's default of `repeat_last_n`
# Below this only the largest logit has a chance, unless the second lies within a float's rounding of it.
LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """`seed` any non-negative int. `bias` in logits, -inf forbids a token. Penalties as in OpenAI's API."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    bias: dict[int, float] = field(default_factory=dict)


class RowEdit(Protocol):
    """Something that changes a few of a request's logits before each draw."""

    def changed(self, row: Row) -> tuple[NDArray[np.intp], Row]:
        """Some tokens, each once, and their new logits in this row, (n_vocab,); -inf forbids a token."""

    def accept(self, token: int) -> None:
        """This token was drawn."""


class Sampler:
    """One request's draws: bias, penalties, grammar, top-k, top-p, min-p, temperature, one random number.

    Every token takes exactly one random number, so that what was drawn depends on the seed and the rows
    alone, not on how many rows one pass gave. One thread at a time.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        prompt: Sequence[int],
        grammar: Grammar | None = None,
    ) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)
        self._edits = _edits(settings, prompt)
        self._grammar = grammar

    @property
    def is_cheap(self) -> bool:
        """One walk over the row, some microseconds: not worth another thread."""
        return self._is_greedy and self._grammar is None

    @property
    def finished(self) -> bool:
        """Whether the grammar, if there is one, allows nothing more."""
        return self._grammar is not None and self._grammar.finished

    @property
    def _is_greedy(self) -> bool:
        return self._settings.temperature < LEAST_TEMPERATURE

    def draw(self, row: Row) -> int:
        """The next token, which is remembered. `row` (n_vocab,) is changed meanwhile, and then as it was.

        Raises: NotFinite; DeadEnd.
        """
        before = []  # of few tokens: to copy the row of a large vocabulary takes longer than all else
        for edit in self._edits:
            tokens, logits = edit.changed(row)
            before.append((tokens, row[tokens]))
            row[tokens] = logits
        try:
            token = self._drawn(row)
        finally:
            for tokens, logits in reversed(before):
                row[tokens] = logits
        self._accept(token)
        return token

    def _drawn(self, row: Row) -> int:
        best = int(row.argmax())  # of a row with NaN, the first NaN
        if not math.isfinite(row[best]):
            raise NotFinite
        return self._choose(row, best) if self._grammar is None else self._allowed(self._grammar, row, best)

    def take_forced(self, most: int) -> list[int]:
        """Tokens that the grammar leaves no choice about, at most so many: drawn without their logits."""
        if self._grammar is None:
            return []
        taken = []
        for token in self._grammar.forced(most):
            if self._settings.bias.get(token) == -math.inf:
                break  # the next draw says so
            if not self._is_greedy:
                self._random.random()
            self._accept(token)
            taken.append(token)
        return taken

    def _accept(self, token: int) -> None:
        for edit in self._edits:
            edit.accept(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    def _allowed(self, grammar: Grammar, row: Row, best: int) -> int:
        """Of the tokens that may come next: no bias brings another back."""
        if self._is_greedy and grammar.allows(best):
            return best
        tokens, row = grammar.narrow(row)
        index = self._choose(row, int(row.argmax()))
        return index if tokens is None else int(tokens[index])

    def _choose(self, row: Row, best: int) -> int:
        return best if self._is_greedy else self._pick(row, float(row[best]))

    def _pick(self, row: Row, peak: float) -> int:
        """Draw from what the truncations leave."""
        tokens, kept = self._truncate(row, peak)
        weights = np.exp((kept - peak) / self._settings.temperature)
        index = draw_index(weights, self._random.random())
        return index if tokens is None else int(tokens[index])

    def _truncate(self, row: Row, peak: float) -> tuple[NDArray[np.intp] | None, Row]:
        """The tokens that may be drawn, ascending, and their logits; None for all tokens."""
        asked = self._settings
        tokens: NDArray[np.intp] | None = None
        if 0 < asked.top_k < len(row):
            tokens = largest(row, asked.top_k)
            row = row[tokens]
        if asked.top_p < 1.0:
            kept = nucleus(np.exp(row - peak), asked.top_p)
            tokens, row = _chosen(tokens, kept), row[kept]
        if asked.min_p > 0.0:
            kept = np.flatnonzero(row >= peak + math.log(asked.min_p))
            tokens, row = _chosen(tokens, kept), row[kept]
        return tokens, row


def _chosen(tokens: NDArray[np.intp] | None, kept: NDArray[np.intp]) -> NDArray[np.intp]:
    return kept if tokens is None else tokens[kept]


def _edits(settings: SamplerSettings, prompt: Sequence[int]) -> list[RowEdit]:
    """In llama.cpp's order, which matters: the repeat penalty divides, the others subtract."""
    edits: list[RowEdit] = []
    if settings.bias:
        edits.append(Bias(settings.bias))
    if settings.repeat_penalty != 1.0:
        edits.append(RepeatPenalty(settings.repeat_penalty, prompt))
    if settings.frequency_penalty or settings.presence_penalty:
        edits.append(CountPenalties(settings.frequency_penalty, settings.presence_penalty))
    return edits


class Bias:
    """Adds a number to the logits of some tokens."""

    def __init__(self, bias: dict[int, float]) -> None:
        self._tokens = np.array(list(bias), np.intp)
        self._values = np.array(list(bias.values()), np.float32)

    def changed(self, row: Row) -> tuple[NDArray[np.intp], Row]:
        return self._tokens, row[self._tokens] + self._values

    def accept(self, token: int) -> None:
        """The same for every token."""


class RepeatPenalty:
    """Divides the logits of the last tokens, also of the prompt's; multiplies those below zero."""

    def __init__(self, penalty: float, prompt: Sequence[int]) -> None:
        self._penalty = penalty
        self._window = deque(prompt[-REPEAT_WINDOW_TOKENS:], REPEAT_WINDOW_TOKENS)

    def changed(self, row: Row) -> tuple[NDArray[np.intp], Row]:
        tokens = np.array(list(set(self._window)), np.intp)
        logits = row[tokens]
        return tokens, np.where(logits <= 0, logits * self._penalty, logits / self._penalty)

    def accept(self, token: int) -> None:
        self._window.append(token)


class CountPenalties:
    """OpenAI's frequency and presence penalties: of what was generated, not of the prompt."""

    def __init__(self, frequency: float, presence: float) -> None:
        self._frequency = frequency
        self._presence = presence
        self._counts: Counter[int] = Counter()

    def changed(self, row: Row) -> tuple[NDArray[np.intp], Row]:
        tokens = np.fromiter(self._counts, np.intp, len(self._counts))
        counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        return tokens, row[tokens] - (counts * self._frequency + self._presence)

    def accept(self, token: int) -> None:
        self._counts[token] += 1
