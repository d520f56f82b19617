"""Tensors of the device, and how an operation on them is computed."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .memory import Memory

NAME = "cuda"
aten = torch.ops.aten
# CUDA takes their indices from the processor, too.
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}


class There(torch.Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: torch.Tensor
    memory: ClassVar[Memory]

    @staticmethod
    def __new__(cls: type[Self], held: torch.Tensor) -> Self:
        """Raises: torch.OutOfMemoryError."""
        cls.memory.note(held)
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without the function
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """So that what is made on the device is seen, too."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})


def held(value: Any) -> Any:
    return value.held if isinstance(value, There) else value


def compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Raises: RuntimeError if tensors of the device meet others that are no single numbers."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    if function is aten.copy_.default:
        there = isinstance(args[0], There)
    elif there and function not in COPIES:
        _refuse_mixing(function, tensors)
    if (wanted := kwargs.get("device")) is not None:
        there = torch.device(wanted).type == NAME
        if there:
            kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*tree_map(held, args), **tree_map(held, kwargs))
    if not there:
        return found
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, There)}  # changed in place

    def sent(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, There):
            return value
        return known[id(value)] if id(value) in known else There(value)

    return tree_map(sent, found)


def _refuse_mixing(function: Any, tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        index = function in INDEXED and tensor.dtype in (torch.int64, torch.bool)
        if not isinstance(tensor, There) and tensor.dim() and not index:
            raise RuntimeError(f"{function} mixes devices: {tuple(tensor.shape)} is on the processor")
