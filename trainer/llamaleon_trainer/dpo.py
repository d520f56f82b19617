"""Direct preference optimization (arXiv:2305.18290) on the tokens that the server wrote.

The reference is the model as the job begins with it, and no second one in memory: the base with the adapter
switched off; or, where training goes on from an adapter, that model before its first step. What it thinks of
a row never changes, so it is asked once a row; checkpoints keep the answers.

Asked when a row comes up, or all before the first step: where training goes on from an adapter, which is gone
after it; and where processes gather each other's weights, for then none may compute more than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional

from .batches import collate
from .items import Item, Preference
from .job import JobSpec
from .objectives import Sums, fetched
from .scoring import Scorer


class DirectPreference:
    """Mean over pairs of -log sigmoid(beta * ((chosen - rejected) - the reference's (chosen - rejected))).

    chosen and rejected are log-probabilities of whole answers, each token's times its weight. `smoothing` is
    the share of pairs taken to be the wrong way round (conservative DPO); it is in the gradient alone, as
    everywhere.
    """

    def __init__(self, wrapped: Any, scorer: Scorer, spec: JobSpec, pairs: int, *, packed: bool) -> None:
        self._wrapped = wrapped
        self._scorer = scorer
        self._packed = packed
        self._beta = spec.dpo_beta
        self._smoothing = spec.label_smoothing
        self._continued = spec.init_adapter is not None
        self._ahead = self._continued or spec.sharding != "none"
        self._reference = torch.full((pairs, 2), torch.nan)  # chosen, rejected: nats; by the pairs' index

    def score(self, items: Sequence[Item]) -> tuple[torch.Tensor, Sums]:
        pairs = self._ask_reference(items)
        reference = self._reference[[pair.index for pair in pairs]].to(self._scorer.device)
        gains = self._log_probabilities(pairs) - reference
        margins = self._beta * (gains[:, 0] - gains[:, 1])
        right, wrong = -functional.logsigmoid(margins), -functional.logsigmoid(-margins)
        loss, correct, margin = fetched(right.sum(), (margins > 0).sum(), margins.sum())
        sums = Sums(loss, len(pairs), correct, len(pairs), margin)
        return ((1 - self._smoothing) * right + self._smoothing * wrong).sum(), sums

    def metrics(self, sums: Sums) -> dict[str, float]:
        return {
            "loss": sums.loss / sums.weight,
            "accuracy": sums.correct / sums.counted,
            "reward_margin": sums.margin / sums.weight,
        }

    def state(self) -> dict[str, torch.Tensor]:
        return {"reference": self._reference}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self._reference = state.get("reference", self._reference)

    def before_training(self, items: Sequence[Item]) -> None:
        if self._ahead:
            self._ask_reference(items)

    @torch.no_grad()
    def _ask_reference(self, items: Sequence[Item]) -> list[Preference]:
        """The items as pairs, whose reference is known from now on."""
        pairs = [item for item in items if isinstance(item, Preference)]
        new = [pair for pair in pairs if self._reference[pair.index].isnan().any()]
        if new:
            training = self._wrapped.training
            self._wrapped.eval()
            with nullcontext() if self._continued else self._wrapped.disable_adapter():
                found = self._log_probabilities(new)
            self._wrapped.train(training)
            self._reference[[pair.index for pair in new]] = found.cpu()
        return pairs

    def _log_probabilities(self, pairs: Sequence[Preference]) -> torch.Tensor:
        """(pairs, 2): of each answer that is liked, and of the other."""
        examples = [example for pair in pairs for example in pair.sequences]
        batch = collate(examples, self._scorer.device, packed=self._packed)
        losses = self._scorer.predict(batch).losses * batch.weights
        rows = torch.zeros(len(examples), device=losses.device).index_add(0, batch.owners, losses)
        return -rows.view(-1, 2)
