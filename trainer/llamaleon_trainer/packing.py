"""Several rows in one sequence, none of which sees another.

Linear layers take the rows' tokens as one long row without padding; attention is computed row by row, each
from position 0. That is exact, and cheaper than a mask over the whole sequence. Layers that carry a state
from token to token (recurrent, convolutional) would leak it from row to row: `packs` finds out by trying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

PACKED_ATTENTION = "llamaleon_packed"


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Inside, the model takes packed sequences, given as `packed_arguments`, and only those."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED_ATTENTION, attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def packed_arguments(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What a transformers model needs besides the tokens (1, sum of `lengths`)."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    return {"position_ids": positions[None].to(device), "packed_lengths": tuple(lengths)}


def attend(  # noqa: PLR0917  (transformers' interface of an attention function)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,  # none: load_base
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    packed_lengths: Sequence[int] | None = None,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row, as transformers calls it: (1, heads, tokens, head_dim) each, giving
    (1, tokens, heads, head_dim).

    Raises:
        NotImplementedError: a term this does not compute, or a model that does not say where the rows are.
    """
    if packed_lengths is None and position_ids is not None:  # what some layers hand on instead
        packed_lengths = _lengths(position_ids)
    if others.get("position_bias") is not None or sum(packed_lengths or ()) != query.shape[2]:
        raise NotImplementedError("packed attention with a position bias, or without lengths")
    rows = []
    parts = (torch.split(tensor, list(packed_lengths or ()), dim=2) for tensor in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        if softcap is None and s_aux is None:
            rows.append(_sdpa(q, k, v, scaling, sliding_window))
        else:
            visible = _visible(q, sliding_window)
            rows.append(_plainly(q, k, v, scaling, visible, cap=softcap, sinks=s_aux))
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _lengths(positions: torch.Tensor) -> list[int]:
    starts = (positions[0] == 0).nonzero()[:, 0].tolist()
    return [end - start for start, end in pairwise([*starts, positions.shape[1]])]


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    plain = window is None or query.shape[2] <= window
    if not plain:  # CUDA's fused attention takes a mask or groups of heads; with both, all scores would exist
        key, value = (_for_each_query(tensor, query) for tensor in (key, value))
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if plain else _visible(query, window),
        is_causal=plain,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    visible: torch.Tensor,
    *,
    cap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """What no fused attention does: scores capped before the softmax (Gemma 2), and for each head one more
    key of this score and no value (gpt-oss)."""
    key, value = (_for_each_query(tensor, query) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~visible, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)], dim=-1)
    shares = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return shares[..., : key.shape[2]] @ value


def _for_each_query(tensor: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values with as many heads as there are of queries."""
    return tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1)


def _visible(query: torch.Tensor, window: int | None) -> torch.Tensor:
    """(tokens, tokens): which keys each query sees."""
    tokens = query.shape[2]
    visible = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    return visible if window is None else visible.triu(1 - window)


@torch.no_grad()
def packs(model: Any, rows: Sequence[Sequence[int]]) -> bool:
    """Whether rows packed give the hidden states of the rows alone, on this model and these rows."""
    model.eval()
    body, device = model.base_model, model.get_input_embeddings().weight.device
    alone = [
        body(input_ids=torch.tensor([row], device=device), use_cache=False).last_hidden_state for row in rows
    ]
    tokens = torch.tensor([[token for row in rows for token in row]], device=device)
    arguments = packed_arguments([len(row) for row in rows], device)
    try:
        with packed_attention(model):
            packed = body(input_ids=tokens, use_cache=False, **arguments).last_hidden_state
    except NotImplementedError:
        return False
    expected = torch.cat(alone, dim=1).float()
    error = (packed.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(error.max()) < (1e-3 if packed.dtype is torch.float32 else 0.1)
