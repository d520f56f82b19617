"""`python -m tests.unit.trainer.pretended_gpu JOB...`: trains jobs on a device that torch is told of.

What only a GPU shows is a tensor that was left on the processor. Where there is none, torch is given a device
of ours: its tensors hold others in ordinary memory, each operation is computed on those as ever, and one that
mixes both kinds raises, as CUDA does. Forward and backward pass, optimizer and checkpoints all go through it.

It changes torch for the whole process, so it runs in one of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import peft.peft_model
import torch
from tests.unit.trainer.jobs import run_here
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from llamaleon_trainer import device, estimate, losses, preflight, recipe

NAME = "pretended"
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
TABLES = (
    losses.CHUNK_ELEMENTS,
    preflight.USABLE,
    estimate.HOLES,
    estimate.HEAD_CHUNK,
    estimate.RUNTIME_BYTES,
)


class Backend:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device(_number: int) -> AbstractContextManager[None]:
        return nullcontext()

    @staticmethod
    def manual_seed_all(_seed: int) -> None:
        """The processor's generator draws."""

    @staticmethod
    def get_rng_state(_number: int = 0) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, _number: int = 0) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


class There(torch.Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type[Self], held: torch.Tensor) -> Self:
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


def _made_there(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor` and its like make their tensors past the dispatcher."""

    def make(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != NAME:
            return original(data, *args, device=device, **options)
        return original(held(data), *args, **options).to(device)

    return make


def _refuse_numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    def numpy(tensor: torch.Tensor, **options: Any) -> Any:
        if isinstance(tensor, There):
            raise TypeError("numpy() of a tensor on the device")
        return original(tensor, **options)

    return numpy


def _with_held(original: Callable[..., Any]) -> Callable[..., Any]:
    """Where torch or safetensors read memory themselves."""

    def call(first: Any, *args: Any, **options: Any) -> Any:
        return original(tree_map(held, first), *args, **options)

    return call


def pretend() -> torch.device:
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    replaced: Any = torch
    library = replaced.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    replaced.tensor, replaced.as_tensor = _made_there(torch.tensor), _made_there(torch.as_tensor)
    replaced.save = _with_held(torch.save)
    of_tensors: Any = torch.Tensor
    for name in ("untyped_storage", "storage", "tolist"):
        setattr(of_tensors, name, _with_held(getattr(torch.Tensor, name)))
    of_tensors.numpy = _refuse_numpy(torch.Tensor.numpy)
    files: Any = peft.peft_model
    files.safe_save_file = _with_held(files.safe_save_file)
    for table in TABLES:
        by_device: Any = table
        by_device[NAME] = by_device["cpu"]
    chosen = torch.device(NAME, 0)
    choice: Any = recipe
    choice.choose_device = lambda _spec: chosen
    choice.choose_precision = lambda _spec, _device: device.Precision(torch.float32, autocast=False)
    return chosen


if __name__ == "__main__":
    pretend()
    for job in sys.argv[1:]:
        with Dispatch():  # type: ignore[no-untyped-call]
            run_here(Path(job))
