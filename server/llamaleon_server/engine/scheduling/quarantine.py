"""What happens when a pass computes numbers that are not finite.

An adapter, or a weight, that is finite but large makes a value in the KV cache overflow, and one infinity
there spoils everybody: attention multiplies the cells of others by 0, and 0 * inf is NaN. So whose fault it
was does not show in the pass. The cache is then wiped, everybody computes again, one adapter set after the
other and alone; who fails once more is to blame, and the others have lost nothing but time.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListOf

from llamaleon_server.engine.scheduling.scheduler import Policy
from llamaleon_server.engine.sequence import AdapterSet, Sequence


class Quarantine:
    """A policy around another: while there are suspects, only the first of them may run."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._suspects: list[AdapterSet] = []
        self._left = False  # a suspect is gone unproved, and what it computed still lies in the cache

    @property
    def active(self) -> bool:
        return bool(self._suspects)

    def begin(self, sequences: Iterable[Sequence]) -> None:
        """Suspect the sets of all these; their cells must be wiped."""
        self._suspects = list(dict.fromkeys(sequence.adapters for sequence in sequences))

    def choose(self, running: ListOf[Sequence]) -> list[Sequence]:
        while self._suspects:
            chosen = [sequence for sequence in running if sequence.adapters == self._suspects[0]]
            if not chosen:
                self._left = True
            elif not all(sequence.is_decoding for sequence in chosen):
                return self._policy.choose(chosen)
            del self._suspects[0]  # gone, or all have drawn from what they computed anew
            if self._left:
                return []
        return self._policy.choose(running)

    def must_wipe(self) -> bool:
        """Whether the cache must be wiped before anybody else runs. Asked once, it is taken as done."""
        left, self._left = self._left, False
        return left
