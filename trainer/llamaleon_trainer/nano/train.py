"""Pre-training of nano: a schedule counted in steps, so that one command always makes the same file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from llamaleon_trainer.nano.batches import Batch, batches
from llamaleon_trainer.nano.corpus import Corpus
from llamaleon_trainer.nano.model import Nano, Shape, initialise
from llamaleon_trainer.nano.tokenizer import encode, spaced_pairs

_POSITIONS_MULTIPLE = 256


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, besides the code."""

    seed: int = 20
    steps: int = 5000
    rows: int = 10
    length: int = 320
    lr: float = 3e-3
    warmup_steps: int = 50
    decay_share: float = 0.7  # of the steps, at the end, over which the rates fall to nothing
    long_every: int = (
        8  # one batch in so many has few long rows, so that positions up to the context are seen
    )
    long_rows: int = 3
    long_length: int = 1020
    copy_start: float = 0.4  # share of pure copying at first; falls to copy_end over copy_steps
    copy_end: float = 0.15
    copy_steps: int = 600
    clip: float = 1.0


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever prints it."""

    step: int
    loss: float
    tokens: int
    seconds: float


def answer_loss(model: Nano, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answers; the output matrix is applied to their positions alone.

    Their number is rounded up with positions that do not count: on a CPU every new size is a compilation.
    """
    weight = batch.weight[:, 1:].reshape(-1)
    spoken = weight.nonzero()[:, 0]
    filler = spoken.new_zeros(-len(spoken) % _POSITIONS_MULTIPLE)
    chosen = torch.cat((spoken, filler))
    counts = torch.cat((weight[spoken], torch.zeros(len(filler))))
    states = model(batch.ids[:, :-1]).flatten(0, 1)[chosen]
    losses = F.cross_entropy(
        model.lm_head(states).float(), batch.ids[:, 1:].reshape(-1)[chosen], reduction="none"
    )
    return (losses * counts).sum() / counts.sum()


def rate(step: int, recipe: Recipe) -> float:
    """Factor of the learning rates: warm-up, level, then a cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    fall = recipe.steps * (1 - recipe.decay_share)
    if step < fall:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - fall) / (recipe.steps - fall)))


@torch.no_grad()
def exact_match(model: Nano, tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[bool]:
    """Whether greedy decoding gives each row's last answer: each of its tokens is the likeliest there."""
    model.eval()
    result: list[bool] = []
    for row in rows:
        encoded = encode(tokenizer, row["messages"])
        first = len(encoded.answer) - 1 - encoded.answer[::-1].index(True)
        while encoded.answer[first - 1]:
            first -= 1
        ids = torch.tensor([encoded.ids])
        best = model.lm_head(model(ids)[0]).argmax(-1)
        result.append(
            all(
                not encoded.answer[i] or i < first or int(best[i - 1]) == encoded.ids[i]
                for i in range(1, len(encoded.ids))
            )
        )
    model.train()
    return result


def train(
    tokenizer: Tokenizer,
    recipe: Recipe,
    on_step: Callable[[Progress, Nano], None],
    shape: Shape | None = None,
) -> Nano:
    """The trained model; `on_step` may print or save, not change anything."""
    torch.manual_seed(recipe.seed)
    model = Nano(shape or Shape())
    initialise(model, recipe.seed, spaced_pairs(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    corpus = Corpus(recipe.seed)
    short = batches(tokenizer, corpus, recipe.rows, recipe.length)
    long = batches(tokenizer, corpus, recipe.long_rows, recipe.long_length)
    started, tokens = time.monotonic(), 0
    for step in range(recipe.steps):
        done = min(1.0, step / recipe.copy_steps)
        corpus.copy_share = recipe.copy_start + (recipe.copy_end - recipe.copy_start) * done
        optimizer.param_groups[0]["lr"] = recipe.lr * rate(step, recipe)
        batch = next(long if step % recipe.long_every == recipe.long_every - 1 else short)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = answer_loss(model, batch)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.ids.numel()
        on_step(Progress(step + 1, loss.item(), tokens, time.monotonic() - started), model)
    return model
