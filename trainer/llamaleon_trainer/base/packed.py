"""Layers whose frozen weight is a tensor of the served GGUF, still packed.

It is dequantised for the forward pass and again for the backward pass, and never kept: training computes what
it would on the dequantised model, in the memory of the file. peft wraps these layers like any linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from .blocks import dequantize

# A wider matrix (an output head) is multiplied in slices of rows: no more of it is ever dequantised at once.
SLICE_ELEMENTS = 1 << 27

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PackedLinear(nn.Linear):
    """`packed` is (n_out, row_bytes) uint8 of the ggml type `kind`; its rows are those of transformers.

    Column j of the weight is column `columns[j]` of the packed one; None: they are in order.
    """

    order: torch.Tensor | None

    def __init__(
        self,
        packed: torch.Tensor,
        kind: str,
        n_in: int,
        bias: nn.Parameter | None = None,
        columns: torch.Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make a weight of its own
        self.in_features, self.out_features, self.kind = n_in, len(packed), kind
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias  # type: ignore[assignment]  # nn.Linear says Tensor, and registers None too
        # The input is put in the order of the file instead: blocks cannot be.
        order = None if columns is None else columns.argsort()
        self.register_buffer("order", order, persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        ordered = input if self.order is None else input[..., self.order]
        return _product(ordered, self.weight, self.kind, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


class PackedEmbedding(nn.Embedding):
    """Only the rows that a batch names are dequantised. `scale` multiplies them (Gemma)."""

    def __init__(
        self, packed: torch.Tensor, kind: str, width: int, dtype: torch.dtype, scale: float | None = None
    ) -> None:
        nn.Module.__init__(self)  # not Embedding's, which would make a weight of its own
        self.num_embeddings, self.embedding_dim, self.kind, self.dtype = len(packed), width, kind, dtype
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = None if scale is None else float(torch.tensor(scale, dtype=dtype))  # as it multiplies

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = dequantize(self.weight[input.reshape(-1)], self.kind, self.dtype)
        if self.scale is not None:
            rows = rows * self.scale
        return rows.view(*input.shape, self.embedding_dim)


class Stack(NamedTuple):
    """One matrix of every expert: (n_experts, n_out, row_bytes) uint8 of the ggml type `kind`."""

    packed: torch.Tensor
    kind: str
    bias: torch.Tensor | None = None  # (n_experts, n_out)


class PackedExperts(nn.Module):
    """The experts of one layer, as packed stacks "gate", "up" and "down"; only those chosen are undone.

    Computes what transformers' experts do, `combine` making one of what gate and up give. Their fused
    parameters do not exist here, so that no LoRA can be put on them.
    """

    def __init__(self, stacks: dict[str, Stack], combine: Combine) -> None:
        super().__init__()
        self.kinds, self.combine = {name: stack.kind for name, stack in stacks.items()}, combine
        for name, stack in stacks.items():
            self.register_parameter(name, nn.Parameter(stack.packed, requires_grad=False))
            self.register_buffer(f"{name}_bias", stack.bias, persistent=False)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """`hidden_states` (n_tokens, width); of the chosen experts the indices and weights (n_tokens, k)."""
        total = torch.zeros_like(hidden_states)
        # Sorted once: to look for each expert's tokens would wait for a GPU as often as there are experts.
        flat = top_k_index.flatten()
        counts = flat.bincount(minlength=len(self.get_parameter("down"))).tolist()
        for expert, chosen in enumerate(torch.split(flat.argsort(stable=True), counts)):
            if not counts[expert]:
                continue
            token, place = chosen // top_k_index.shape[1], chosen % top_k_index.shape[1]
            states = hidden_states[token]
            inner = self.combine(self._times("gate", expert, states), self._times("up", expert, states))
            values = self._times("down", expert, inner) * top_k_weights[token, place, None]
            total = total.index_add(0, token, values.to(total.dtype))
        return total

    def _times(self, name: str, expert: int, states: torch.Tensor) -> torch.Tensor:
        bias = getattr(self, f"{name}_bias")
        packed = self.get_parameter(name)[expert]
        return _product(states, packed, self.kinds[name], None if bias is None else bias[expert])


def combine_of(experts: Any) -> Combine:
    """How a transformers module of experts makes one of what its gate and its up projection give."""
    if not hasattr(experts, "limit"):
        return lambda gate, up: experts.act_fn(gate) * up

    def clamped(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:  # gpt-oss
        gate, up = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * experts.alpha))

    return clamped


def rows_of(layer: Any, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows `start` to `stop` of a linear layer's weight, packed or not: (stop - start, n_in) of `dtype`."""
    weight: torch.Tensor = layer.weight[start:stop]
    return dequantize(weight, layer.kind, dtype) if isinstance(layer, PackedLinear) else weight.to(dtype)


def _product(x: torch.Tensor, packed: torch.Tensor, kind: str, bias: torch.Tensor | None) -> torch.Tensor:
    """`x W^T + b` in the type of `x`, or of autocast."""
    device = x.device.type
    narrowed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if narrowed else x.dtype
    multiply: Any = _PackedProduct.apply  # torch leaves it untyped
    result: torch.Tensor = multiply(x.to(dtype), packed, kind, None if bias is None else bias.to(dtype))
    return result


class _PackedProduct(torch.autograd.Function):
    """`x W^T + b` with a frozen W, (n_out, n_in), that exists only while it is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, kind: str, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.kind, ctx.width = kind, x.shape[-1]
        slices = _slices(packed, ctx.width)
        if len(slices) == 1:
            return functional.linear(x, dequantize(packed, kind, x.dtype), bias)
        result = x.new_empty(*x.shape[:-1], len(packed))
        for rows in slices:
            part = None if bias is None else bias[rows]
            result[..., rows] = functional.linear(x, dequantize(packed[rows], kind, x.dtype), part)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (gradient,), (packed,) = gradients, ctx.saved_tensors
        total: torch.Tensor | None = None
        for rows in _slices(packed, ctx.width):
            part = gradient[..., rows] @ dequantize(packed[rows], ctx.kind, gradient.dtype)
            total = part if total is None else total + part
        return total, None, None, None


def _slices(packed: torch.Tensor, width: int) -> list[slice]:
    step = max(1, SLICE_ELEMENTS // width)
    return [slice(start, start + step) for start in range(0, len(packed), step)]
