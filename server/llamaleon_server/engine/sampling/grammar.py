"""What a grammar allows next: a mask over the vocabulary, computed by llguidance.

A request's own `Grammar` is a copy of one that was compiled before. It follows the tokens as they are drawn,
so it must see each once and in order; a wrong guess of the engine's it never sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llamaleon_server.engine.sampling.rows import Indices, Row

if TYPE_CHECKING:
    from llguidance import LLMatcher

FORBIDDEN = np.float32(-np.inf)


class DeadEnd(Exception):
    """The grammar allows no token, or none that the request's biases allow too. The message says why."""


class Grammar:
    """Where one request stands in its grammar. One thread at a time."""

    def __init__(self, matcher: LLMatcher, end_tokens: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens

    def copy(self) -> Grammar:
        """A request of its own, at the same place; some microseconds."""
        return Grammar(self._matcher.deep_copy(), self._end_tokens)

    @property
    def finished(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        """Much faster than the mask of all tokens."""
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """For each of `size` tokens whether it may come next: one at least. Raises: DeadEnd."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise DeadEnd(self._problem())
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=size, bitorder="little")
        if not bits.any():
            raise DeadEnd("no token of this model continues the text as the grammar wants it")
        return bits.view(np.bool_)

    def narrow(self, row: Row) -> tuple[Indices | None, Row]:
        """The tokens allowed, ascending, and their logits; None for all tokens, the forbidden ones -inf.

        `row` (n_vocab,) stays as it is. Raises: DeadEnd.
        """
        allowed = self.allowed(len(row))
        if 2 * np.count_nonzero(allowed) <= len(row):
            tokens = np.flatnonzero(allowed)
            narrowed = row[tokens]
        else:
            tokens = None
            narrowed = row.copy()
            narrowed[np.flatnonzero(~allowed)] = FORBIDDEN
        if narrowed.max() == FORBIDDEN:
            return self._only_end(allowed, row)
        return tokens, narrowed

    def _only_end(self, allowed: NDArray[np.bool_], row: Row) -> tuple[Indices, Row]:
        """Where the text may end and nothing else may come, it ends, whatever a bias says."""
        ends = [token for token in sorted(self._end_tokens) if allowed[token]]
        if not ends:
            raise DeadEnd("every token that the grammar allows next has a logit_bias that forbids it")
        return np.array(ends[:1]), np.zeros(1, np.float32)

    def accept(self, token: int) -> None:
        """This token was drawn."""
        self._matcher.consume_token(token)

    def forced(self, most: int) -> list[int]:
        """Tokens that come next without a choice, at most so many."""
        return self._matcher.compute_ff_tokens()[:most]

    def fitting(self, guesses: list[int]) -> int:
        """How many of the guesses, from the first, may come next."""
        return self._matcher.validate_tokens(guesses)

    def _problem(self) -> str:
        lines = self._matcher.get_error().splitlines()
        return lines[0] if lines else "unknown"
