"""Which rows go into which step and pass, and rows as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from .items import Example, Item, lengths
from .order import PICKS_MULTIPLE, cut, epoch_order, rounded


class Batch(NamedTuple):
    """Sequences side by side, each padded on the right; or one after the other in a single packed sequence.

    `tokens` (rows, width), packed (1, width). `lengths` of the sequences, without padding; packed, the last
    one may be filler. `picks` (picked,) are places of the counted predictions in the flattened tokens,
    `owners` (picked,) the sequences they belong to, `targets` and `weights` (picked,) what counts there. The
    last picks may be filler: their weight is 0, all others' is not.

    Causal attention never lets a token see the padding behind it, so padded rows need no mask.
    """

    tokens: torch.Tensor
    lengths: list[int]
    packed: bool
    picks: torch.Tensor
    owners: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def collate(examples: Sequence[Example], device: torch.device, *, packed: bool = False) -> Batch:
    sizes = [len(example.tokens) for example in examples]
    width = rounded(sum(sizes) if packed else max(sizes))
    tokens = torch.zeros(1 if packed else len(examples), width, dtype=torch.long)
    picks: list[int] = []
    owners: list[int] = []
    start = 0
    for number, example in enumerate(examples):
        tokens.view(-1)[start : start + len(example.tokens)] = torch.tensor(example.tokens)
        picks += [start + position for position in example.positions]
        owners += [number] * len(example.positions)
        start += len(example.tokens) if packed else width
    if packed and start < width:
        sizes.append(width - start)
    targets = [target for example in examples for target in example.targets]
    weights = [weight for example in examples for weight in example.weights]
    filler = [0] * (-len(picks) % PICKS_MULTIPLE)
    return Batch(
        tokens.to(device),
        sizes,
        packed,
        torch.tensor(picks + filler, device=device),
        torch.tensor(owners + filler, device=device),
        torch.tensor(targets + filler, device=device),
        torch.tensor(weights + filler, dtype=torch.float32, device=device),
    )


def epoch_batches(
    examples: Sequence[Item], batch_size: int, seed: int, epoch: int, *, by_length: bool = True
) -> list[list[Item]]:
    """One epoch's batches, of rows of similar length if `by_length`, in an order that seed and epoch fix.

    A resumed job finds its place by counting, whatever happened before.
    """
    order = epoch_order(list(map(lengths, examples)), batch_size, seed, epoch, by_length=by_length)
    return [[examples[place] for place in batch] for batch in order]


def pieces(items: Sequence[Item], budget: int, *, most: int, packed: bool) -> Iterator[Sequence[Item]]:
    """Passes of at most `most` items and `budget` tokens, padding included, but of one item at least."""
    for part in cut(list(map(lengths, items)), budget, most=most, packed=packed):
        yield items[part]
