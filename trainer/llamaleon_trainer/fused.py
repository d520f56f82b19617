"""The same sums in fewer passes over memory, while training only: proofs compute with the layers as they are.

peft's LoRA layer writes the wide result three times (product, scaling, sum) where once is enough, and
autocast narrows every frozen weight anew in every pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ADAPTER = "default"


@contextmanager
def fused(wrapped: Any, *, narrow: bool) -> Iterator[None]:
    """Inside, LoRA layers without dropout add their product to the frozen layer's result in its place.

    `narrow`: frozen float32 layers multiply with a bfloat16 copy of their weight, as under autocast, but made
    once instead of in every pass; and an input that several layers share is narrowed once.
    """
    from peft.tuners.lora.layer import Linear

    narrowed = _Narrowed()
    modules = list(wrapped.modules())
    frozen = [module for module in modules if narrow and _is_frozen(module)]
    lora = [module for module in modules if type(module) is Linear and _is_plain(module)]
    forwards = [(layer, _narrow(layer, narrowed)) for layer in frozen]
    for layer in lora:
        forwards.append((layer, _with_lora(layer, narrowed if layer.base_layer in frozen else None)))
    with _forwards(forwards):
        yield


@contextmanager
def _forwards(layers: list[tuple[Any, Any]]) -> Iterator[None]:
    for layer, forward in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, _ in layers:
            del layer.forward  # the class's own shows again


def _is_frozen(module: Any) -> bool:
    if type(module) is not nn.Linear:
        return False
    return module.weight.dtype is torch.float32 and not module.weight.requires_grad


def _is_plain(layer: Any) -> bool:
    return (
        layer.active_adapters == [ADAPTER]
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and not layer.lora_variant
        and not layer.lora_bias[ADAPTER]
        and not layer.merged
    )


def _with_lora(layer: Any, narrowed: _Narrowed | None) -> Any:
    a, b, scaling = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER], layer.scaling[ADAPTER]

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = layer.base_layer(x)
        if layer.disable_adapters:
            return result
        if narrowed is not None:
            x = narrowed(x)
        added: torch.Tensor = _AddLora.apply(result, x, a.weight, b.weight, scaling)  # type: ignore[no-untyped-call]  # torch's
        return added

    return forward


def _narrow(layer: nn.Linear, narrowed: _Narrowed) -> Any:
    weight = layer.weight.detach().to(torch.bfloat16)
    bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(narrowed(x), weight, bias)

    return forward


class _Narrowed:
    """The newest tensor in bfloat16: q, k and v, and the LoRA layers beside them, read the same one."""

    def __init__(self) -> None:
        self._source: weakref.ref[torch.Tensor] | None = None
        self._version = -1  # which rises when a tensor is changed in its place
        self._made: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is torch.bfloat16:
            return x
        made = self._made
        known = self._source is not None and self._source() is x and self._version == x._version
        if made is None or not known or not _fits(made, x):
            made = x.to(torch.bfloat16)
            self._source, self._version, self._made = weakref.ref(x), x._version, made
        return made


def _fits(made: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether it has, or has not, the gradient that is wanted now."""
    return made.requires_grad == (x.requires_grad and torch.is_grad_enabled())


class _AddLora(torch.autograd.Function):
    """`result + scaling * x A^T B^T`, computed in the type of `result`; A and B keep theirs (float32)."""

    @staticmethod
    def forward(  # noqa: PLR0917  (torch hands on positional arguments alone)
        ctx: Any, result: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        dtype = result.dtype
        with torch.autocast(result.device.type, enabled=False):
            inner = functional.linear(x.reshape(-1, x.shape[-1]).to(dtype), a.to(dtype))
            wide = result.view(-1, result.shape[-1])
            ctx.save_for_backward(x, a, b, inner)
            ctx.scaling = scaling
            if result._is_view():  # of a layer's own tensor, which autograd lets nobody change
                return wide.addmm(inner, b.to(dtype).T, alpha=scaling).view_as(result)
            wide.addmm_(inner, b.to(dtype).T, alpha=scaling)
        ctx.mark_dirty(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, inner = ctx.saved_tensors
        wide = gradients[0].reshape(-1, gradients[0].shape[-1])
        with torch.autocast(wide.device.type, enabled=False):
            by_inner = ctx.scaling * (wide @ b.to(wide.dtype))
            by_b = ctx.scaling * (wide.T @ inner)
            by_a = by_inner.T @ x.reshape(-1, x.shape[-1]).to(wide.dtype)
            by_x = (by_inner @ a.to(wide.dtype)).view_as(x).to(x.dtype) if ctx.needs_input_grad[1] else None
        return gradients[0], by_x, by_a.to(a.dtype), by_b.to(b.dtype), None
