"""Cross-entropy over the output head, a few tokens at a time: the logits never exist whole.

For a vocabulary of 150,000, the logits of 2,048 tokens and their gradient would take 2.4 GB in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from .base.packed import PackedLinear
from .memory import CHUNK_ELEMENTS, PACKED_CHUNK_ROWS


class Predictions(NamedTuple):
    """For each picked token, (picked,): its loss, which carries the gradient; its negative log-likelihood in
    nats, which is the loss but for smoothing; whether it was the likeliest one."""

    losses: torch.Tensor
    nll: torch.Tensor
    hits: torch.Tensor


class Head(NamedTuple):
    """What a family does after its last norm: logits = cap * tanh(module(hidden) / scaling / cap)."""

    module: Any  # (..., n_hidden) -> (..., n_vocab), linear or the identity
    scaling: float | None = None  # Granite
    cap: float | None = None  # Gemma

    def chunk_rows(self, hidden: torch.Tensor) -> int:
        vocab_size = int(getattr(self.module, "out_features", hidden.shape[-1]))
        own = getattr(self.module, "base_layer", self.module)  # inside a LoRA, if there is one
        least = PACKED_CHUNK_ROWS if isinstance(own, PackedLinear) else 1
        return max(least, CHUNK_ELEMENTS[hidden.device.type] // vocab_size)

    def finish(self, raw: torch.Tensor) -> torch.Tensor:
        """Logits from what the module gave."""
        logits: torch.Tensor = raw / self.scaling if self.scaling else raw
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def finish_(self, raw: torch.Tensor) -> torch.Tensor:
        """The same in its place, for tensors without gradient."""
        if self.scaling:
            raw.div_(self.scaling)
        if self.cap:
            raw.div_(self.cap).tanh_().mul_(self.cap)
        return raw

    def slope_(self, gradient: torch.Tensor, logits_over_cap: torch.Tensor | None) -> torch.Tensor:
        """The gradient by what the module gave, from the one by the logits, in its place."""
        if logits_over_cap is not None:
            gradient.mul_(1 - logits_over_cap.square())
        if self.scaling:
            gradient.div_(self.scaling)
        return gradient


def token_losses(
    head: Head, hidden: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0
) -> Predictions:
    """Losses of predicting `targets` (picked,) from the last norm's output `hidden` (picked, n_hidden).

    `smoothing` is the share of the probability that is asked for evenly over the whole vocabulary.
    """
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in head.module.parameters())
    if not trained:
        found = _FrozenHead.apply(hidden, targets, head, smoothing)  # type: ignore[no-untyped-call]  # torch's
        return Predictions(*found)
    # Gradients of the head's own weights are sums over tokens, for which the loss's gradient must be known.
    rows = head.chunk_rows(hidden)
    parts = [
        checkpoint(_losses, head, part, target, smoothing, use_reentrant=False)
        for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _losses(head: Head, hidden: torch.Tensor, targets: torch.Tensor, smoothing: float) -> Predictions:
    logits = head.finish(head.module(hidden).float())
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(1, targets[:, None])[:, 0]
    hits = log_p.detach().argmax(-1) == targets
    return Predictions((1 - smoothing) * nll - smoothing * log_p.mean(-1), nll.detach(), hits)


class _FrozenHead(torch.autograd.Function):
    """Each token's loss depends on its own hidden state alone, so its gradient is known but for a factor: it
    is computed in the forward pass, chunk by chunk while the logits are there, and multiplied in the other.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = head.chunk_rows(hidden)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        columns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            into = None if gradient is None else gradient[part]
            columns.append(_chunk(head, hidden[part].detach(), targets[part], smoothing, into))
        losses, nll, hits = (torch.cat(column) for column in zip(*columns, strict=True))
        ctx.mark_non_differentiable(nll, hits)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses, nll, hits

    @staticmethod
    def backward(ctx: Any, by_loss: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * by_loss[:, None].to(gradient.dtype), None, None, None)


def _chunk(
    head: Head, hidden: torch.Tensor, targets: torch.Tensor, smoothing: float, into: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Losses, negative log-likelihoods and hits of some tokens; the losses' gradients by `hidden` go `into`.

    One buffer of (tokens, n_vocab) is logits, then exp(logits - their maximum), then the gradient.
    """
    with torch.set_grad_enabled(into is not None):
        raw = head.module(hidden.requires_grad_(into is not None))
    buffer = head.finish_(raw.detach().float())  # a linear layer keeps its input, never this
    at_target = targets[:, None]
    logit = buffer.gather(1, at_target)[:, 0]
    top = buffer.amax(-1)
    mean = buffer.mean(-1) if smoothing else 0.0
    over_cap = buffer / head.cap if head.cap and into is not None else None
    total = buffer.sub_(top[:, None]).exp_().sum(-1)
    log_total = top + total.log()
    nll = log_total - logit
    losses = (1 - smoothing) * nll + smoothing * (log_total - mean) if smoothing else nll
    if into is not None:
        # Softmax minus what was asked for, both times `total`: dividing by it at the end is less to do.
        if smoothing:
            buffer.sub_(total[:, None] * (smoothing / buffer.shape[1]))
        buffer.scatter_add_(1, at_target, -(1 - smoothing) * total[:, None])
        gradient = head.slope_(buffer, over_cap).to(raw.dtype)
        (by_hidden,) = torch.autograd.grad(raw, hidden, gradient)
        into.copy_(by_hidden / total[:, None].to(by_hidden.dtype))
    return losses, nll, logit >= top
