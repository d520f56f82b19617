"""Whose turn it is among the adapter sets: the Virtual Token Counter (Sheng et al., arXiv:2401.00588).

Every set has a counter of what it was served, and the least served goes first. A set that arrives, or comes
back, starts level with the least served of those present, so that it can neither claim what it did not ask
for while it was away nor be made to wait for what it once had. With one set alone this decides nothing, and
requests are served in the order of their arrival.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamaleon_server.engine.scheduling.composition import Span
from llamaleon_server.engine.sequence import AdapterSet, Sequence

PROMPT_TOKEN, GENERATED_TOKEN = 1, 2  # what each counts: a token of a batch of prompts is cheaper
QUANTUM = 256  # prompts are read in turns of this, so that equals do not all end late


@dataclass(slots=True)
class _Share:
    served: int
    members: int = 0  # waiting and running


class FairShare:
    """Counters of the sets that have a request waiting or running; others are forgotten."""

    def __init__(self) -> None:
        self._shares: dict[AdapterSet, _Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def enter(self, sequence: Sequence) -> None:
        share = self._shares.get(sequence.adapters)
        if share is None:
            level = min((other.served for other in self._shares.values()), default=0)
            share = self._shares[sequence.adapters] = _Share(level)
        share.members += 1

    def leave(self, sequence: Sequence) -> None:
        share = self._shares[sequence.adapters]
        share.members -= 1
        if share.members == 0:
            del self._shares[sequence.adapters]

    def charge(self, span: Span) -> None:
        """Count what a pass computes of a sequence; guesses are the engine's own idea and cost nothing."""
        decodes = span.sequence.is_decoding
        self._shares[span.sequence.adapters].served += GENERATED_TOKEN if decodes else span.count

    def served(self, adapters: AdapterSet) -> int:
        return self._shares[adapters].served

    def in_turn(self, prompts: list[Sequence]) -> list[Sequence]:
        """Sequences whose prompt is being read, who goes first first: `QUANTUM` a turn, else by arrival."""
        if len(self._shares) == 1:
            return sorted(prompts, key=_arrival)
        return sorted(prompts, key=lambda prompt: (self.served(prompt.adapters) // QUANTUM, prompt.arrived))


def _arrival(sequence: Sequence) -> float:
    return sequence.arrived
