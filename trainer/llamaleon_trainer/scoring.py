"""Logits and losses. The output head is the widest layer by far, and only answers need logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .batches import Batch


class Score(NamedTuple):
    """Sums over the picked tokens of a batch. `loss` carries the gradient; `correct` counts greedy hits."""

    loss: torch.Tensor
    weight: float
    correct: int
    tokens: int


class Scorer:
    """Runs a causal language model, with LoRA layers inside or not; the head only where it counts."""

    def __init__(self, model: Any, device: torch.device, *, autocast: bool) -> None:
        self.model = model
        self.device = device
        self._autocast = autocast  # while training: proofs compute as exactly as the weights allow
        self._head_only = self._head_alone_is_right()

    def score(self, batch: Batch) -> Score:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._picked_logits(batch.tokens, batch.picks)
        logits = logits.float()
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        counted = batch.weights > 0
        correct = int(((logits.detach().argmax(-1) == batch.targets) & counted).sum())
        weight = float(batch.weights.sum())
        return Score((losses * batch.weights).sum(), weight, correct, int(counted.sum()))

    @torch.no_grad()
    def logits(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """All logits of each sequence, (n_tokens, n_vocab), in evaluation mode."""
        self.model.eval()
        result: list[NDArray[np.float32]] = []
        for sequence in sequences:
            tokens = torch.tensor([sequence], device=self.device)
            picks = torch.arange(len(sequence), device=self.device)
            result.append(self._picked_logits(tokens, picks).float().cpu().numpy())
        return result

    def _picked_logits(self, tokens: torch.Tensor, picks: torch.Tensor) -> torch.Tensor:
        if not self._head_only:
            full: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits
            return full.flatten(0, 1)[picks]
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return self._head(hidden.flatten(0, 1)[picks])

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """What a family does after its last norm; `_head_alone_is_right` sees when one does more."""
        logits: torch.Tensor = self.model.get_output_embeddings()(hidden)
        if scaling := getattr(self.model.config, "logits_scaling", None):  # Granite
            logits = logits / scaling
        if cap := getattr(self.model.config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        return logits

    @torch.no_grad()
    def _head_alone_is_right(self) -> bool:
        if self.model.base_model is self.model:  # transformers knows no body to run alone
            return False
        self.model.eval()
        tokens = torch.arange(4, device=self.device)[None]
        self._head_only = True
        ours = self._picked_logits(tokens, torch.arange(4, device=self.device))
        theirs = self.model(input_ids=tokens, use_cache=False).logits[0].float()
        tolerance = 1e-5 if ours.dtype is torch.float32 else 1e-2
        return torch.allclose(ours.float(), theirs, rtol=tolerance, atol=tolerance)
