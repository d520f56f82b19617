"""The gradients of one optimizer step, and the sums of an evaluation, gathered pass by pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .items import Item
from .objectives import Objective, Sums
from .parallel import Ranks
from .passes import Passes


class Computation:
    """Forward and backward passes of one job. `wrapped` is the PeftModel that `objective` runs."""

    def __init__(self, wrapped: Any, objective: Objective, passes: Passes, ranks: Ranks) -> None:
        self._wrapped = wrapped
        self._objective = objective
        self._passes = passes
        self._ranks = ranks
        self.parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]

    def before_training(self, items: Sequence[Item]) -> None:
        """Let the objective ask the model as it is now about the rows."""
        self._passes.fitting(len(items), lambda: self._ask(items))

    def gradients(self, items: Sequence[Item]) -> dict[str, float]:
        """Leave in the parameters the gradient of the mean loss over all `items`; the objective's metrics.

        The mean is over the weight of the whole step, however it is cut into passes and processes.
        """
        weight = sum(item.weight for item in items)
        mine = self._ranks.share(items)
        sums = self._passes.fitting(len(mine), lambda: self._accumulate(mine, weight, filler=items[:1]))
        self._ranks.sum_gradients(self.parameters)
        return self._objective.metrics(Sums(*self._ranks.sum(*sums)))

    def held_out(self, items: Sequence[Item]) -> dict[str, float]:
        """The objective's metrics on `items`, without dropout or noise."""
        mine = self._ranks.share(items)
        sums = self._passes.fitting(len(mine), lambda: self._evaluate(mine, filler=items[:1]))
        return self._objective.metrics(Sums(*self._ranks.sum(*sums)))

    def _ask(self, items: Sequence[Item]) -> None:
        for piece, _ in self._ranks.even(self._passes.cut(items), items[:1]):
            self._objective.before_training(piece)

    def _accumulate(self, items: Sequence[Item], weight: float, filler: Sequence[Item]) -> Sums:
        self._wrapped.train()
        for parameter in self.parameters:
            parameter.grad = None
        total = Sums()
        for piece, counts in self._ranks.even(self._passes.cut(items), filler):
            loss, sums = self._objective.score(piece)
            torch.autograd.backward(loss * counts / weight)
            total = total.plus(sums) if counts else total
        return total

    @torch.no_grad()
    def _evaluate(self, items: Sequence[Item], filler: Sequence[Item]) -> Sums:
        self._wrapped.eval()
        total = Sums()
        for piece, counts in self._ranks.even(self._passes.cut(items), filler):
            sums = self._objective.score(piece)[1]
            total = total.plus(sums) if counts else total
        return total
