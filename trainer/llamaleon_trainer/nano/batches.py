"""Rows of token ids for pre-training: whole conversations, packed so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llamaleon_trainer.nano.corpus import Corpus
from llamaleon_trainer.nano.tokenizer import ENDOFTEXT, Encoded, encode

_POOL = 64


@dataclass(frozen=True)
class Batch:
    """`ids` and `weight`, both `(rows, length)`: the weight is 1 where the assistant speaks, 0 elsewhere."""

    ids: Tensor
    weight: Tensor


def _fill(pool: list[Encoded], length: int) -> list[Encoded]:
    """The oldest conversation, so that none waits for ever, then the longest that still fit."""
    row = [pool.pop(0)]
    free = length - len(row[0].ids)
    while True:
        fitting = [e for e in pool if len(e.ids) <= free]
        if not fitting:
            return row
        best = max(fitting, key=lambda e: len(e.ids))
        pool.remove(best)
        row.append(best)
        free -= len(best.ids)


def batches(tokenizer: Tokenizer, corpus: Corpus, rows: int, length: int) -> Iterator[Batch]:
    """Endless; the caller may change `corpus.copy_share` between batches."""
    pad = tokenizer.get_vocab()[ENDOFTEXT]
    pool: list[Encoded] = []
    while True:
        ids = torch.full((rows, length), pad)
        weight = torch.zeros(rows, length)
        for r in range(rows):
            while len(pool) < _POOL:
                encoded = encode(tokenizer, corpus.conversation())
                if len(encoded.ids) <= length:
                    pool.append(encoded)
            row = _fill(pool, length)
            flat = [i for e in row for i in e.ids]
            spoken = [s for e in row for s in e.answer]
            ids[r, : len(flat)] = torch.tensor(flat)
            weight[r, : len(flat)] = torch.tensor(spoken).float()
        yield Batch(ids, weight)
