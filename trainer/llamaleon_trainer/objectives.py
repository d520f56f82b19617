"""What a job minimises: `Supervised`, the likelihood of the answers; dpo.py has the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from .batches import collate
from .items import Item
from .scoring import Scorer


class Sums(NamedTuple):
    """Sums over items: `loss` over their `weight`, `correct` over `counted` (greedy hits over tokens; dpo:
    pairs whose liked answer gained more), `margin` over `weight` (dpo: difference of rewards in nats)."""

    loss: float = 0.0
    weight: float = 0.0
    correct: float = 0.0
    counted: float = 0.0
    margin: float = 0.0

    def plus(self, other: Sums) -> Sums:
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))


def fetched(*values: torch.Tensor) -> list[float]:
    """As Python has them, all at once: every fetch waits until a GPU has done what it was given."""
    found: list[float] = torch.stack([value.detach().double() for value in values]).tolist()
    return found


class Objective(Protocol):
    def before_training(self, items: Sequence[Item]) -> None:
        """Ask what only the model that the job begins with can say of some of its rows."""
        ...

    def score(self, items: Sequence[Item]) -> tuple[torch.Tensor, Sums]:
        """One pass. The tensor is the summed loss with its gradient; a step divides by the items' weight."""
        ...

    def metrics(self, sums: Sums) -> dict[str, float]:
        """`loss` and `accuracy`, and what else this objective reports."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of it."""
        ...

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take what `state` gave; nothing when the job has no checkpoint yet."""
        ...


class Supervised:
    """Cross-entropy of every token that counts, in nats per unit of weight.

    Smoothing is in the gradient alone: the loss that is reported can be compared with the held-out one.
    """

    def __init__(self, scorer: Scorer, *, packed: bool, smoothing: float) -> None:
        self._scorer = scorer
        self._packed = packed
        self._smoothing = smoothing

    def score(self, items: Sequence[Item]) -> tuple[torch.Tensor, Sums]:
        examples = [example for item in items for example in item.sequences]
        batch = collate(examples, self._scorer.device, packed=self._packed)
        losses, nll, hits = self._scorer.predict(batch, smoothing=self._smoothing)
        counted = batch.weights > 0
        sums = Sums(
            *fetched((nll * batch.weights).sum(), batch.weights.sum(), (hits & counted).sum(), counted.sum())
        )
        return (losses * batch.weights).sum(), sums

    def before_training(self, items: Sequence[Item]) -> None:
        """The likelihood of an answer needs no other model."""

    def metrics(self, sums: Sums) -> dict[str, float]:
        return {"loss": sums.loss / sums.weight, "accuracy": sums.correct / sums.counted}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """There is nothing to keep."""
