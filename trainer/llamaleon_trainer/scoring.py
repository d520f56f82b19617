"""What a model predicts. The output head is the widest layer by far, and only answers need it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .batches import Batch
from .losses import Head, Predictions, token_losses
from .packing import packed_arguments


class Scorer:
    """Runs a causal language model, with LoRA layers inside or not; the head only where it counts."""

    def __init__(self, model: Any, device: torch.device, *, autocast: bool) -> None:
        self.model = model
        self.device = device
        self.autocast = autocast  # while training: proofs compute as exactly as the weights allow
        self._head_only = self._head_alone_is_right()
        self._noise_alpha = 0.0
        self._noise_scale: torch.Tensor | None = None

    @property
    def _head(self) -> Head:
        """Looked up at each use: a LoRA may have been put around the layer since."""
        config = self.model.config
        return Head(
            self.model.get_output_embeddings(),
            getattr(config, "logits_scaling", None),
            getattr(config, "final_logit_softcapping", None),
        )

    def predict(self, batch: Batch, *, smoothing: float = 0.0) -> Predictions:
        """The picked tokens' losses, with gradients where torch records them."""
        arguments = packed_arguments(batch.lengths, self.device) if batch.packed else {}
        self._noise_scale = _noise_scale(batch, self._noise_alpha)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if self._head_only:
                hidden = self._hidden(batch.tokens, **arguments).index_select(0, batch.picks)
                return token_losses(self._head, hidden, batch.targets, smoothing=smoothing)
            logits = self.model(input_ids=batch.tokens, use_cache=False, **arguments).logits
            identity = Head(torch.nn.Identity())
            return token_losses(
                identity, logits.flatten(0, 1)[batch.picks], batch.targets, smoothing=smoothing
            )

    @torch.no_grad()
    def logits(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """All logits of each sequence, (n_tokens, n_vocab), in evaluation mode."""
        self.model.eval()
        result: list[NDArray[np.float32]] = []
        for sequence in sequences:
            tokens = torch.tensor([sequence], device=self.device)
            result.append(self._all_logits(tokens).float().cpu().numpy())
        return result

    @contextmanager
    def noisy(self, alpha: float) -> Iterator[None]:
        """Inside, training adds NEFTune's noise to the embeddings (arXiv:2310.05914)."""
        if not alpha:
            yield
            return
        self._noise_alpha = alpha
        hook = self.model.get_input_embeddings().register_forward_hook(self._add_noise)
        try:
            yield
        finally:
            hook.remove()
            self._noise_alpha = 0.0

    def _add_noise(self, module: Any, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training or self._noise_scale is None:
            return embedded
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        scale = self._noise_scale / math.sqrt(embedded.shape[-1])
        return embedded + noise * scale.to(embedded.dtype)

    def _hidden(self, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """The last norm's output, (all tokens, n_hidden)."""
        found: torch.Tensor = self.model.base_model(
            input_ids=tokens, use_cache=False, **arguments
        ).last_hidden_state
        return found.flatten(0, 1)

    def _all_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._head_only:
            return self._head.finish(self._head.module(self._hidden(tokens)))
        full: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits[0]
        return full

    @torch.no_grad()
    def _head_alone_is_right(self) -> bool:
        if self.model.base_model is self.model:  # transformers knows no body to run alone
            return False
        self.model.eval()
        tokens = torch.arange(4, device=self.device)[None]
        self._head_only = True
        ours = self._all_logits(tokens)
        theirs = self.model(input_ids=tokens, use_cache=False).logits[0].float()
        tolerance = 1e-5 if ours.dtype is torch.float32 else 1e-2
        return torch.allclose(ours.float(), theirs, rtol=tolerance, atol=tolerance)


def _noise_scale(batch: Batch, alpha: float) -> torch.Tensor | None:
    """alpha / sqrt(length of the token's row), to broadcast over embeddings (rows, width, n_hidden)."""
    if not alpha:
        return None
    lengths = torch.tensor(batch.lengths, dtype=torch.float32, device=batch.tokens.device)
    scale = alpha / lengths.sqrt()
    return scale.repeat_interleave(lengths.long())[None, :, None] if batch.packed else scale[:, None, None]
