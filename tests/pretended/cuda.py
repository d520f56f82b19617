"""torch as it is on a machine with one GPU, of which `tensors` are the tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import peft.peft_model  # with bitsandbytes, which asks what torch has
import torch
from torch.utils._device import _device_constructors

from .memory import Memory
from .tensors import NAME, There, held

aten = torch.ops.aten
ATTENTION = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's; held for good


def pretend(memory: Memory) -> None:
    There.memory = memory
    # Parameters are replaced: written into, they would lose what holds their numbers.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    told: Any = torch.cuda
    for name, answer in {**_answers(), **memory.questions()}.items():
        setattr(told, name, answer)
    _reach_past_the_dispatcher()
    _attend_as_a_gpu()


def _answers() -> dict[str, Any]:
    return {
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "device": lambda _number: nullcontext(),
        "synchronize": lambda _device=None: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_capability": lambda _device=None: (8, 6),
        "get_device_name": lambda _device=None: "pretended",
        # The processor's generator draws.
        "manual_seed_all": lambda _seed: None,
        "get_rng_state": lambda _device=0: torch.get_rng_state(),
        "set_rng_state": lambda state, _device=0: torch.set_rng_state(state),
    }


def _reach_past_the_dispatcher() -> None:
    """Where torch, safetensors or numpy make tensors or read their memory themselves."""
    _device_constructors()  # remembered: `with torch.device(...)` goes by the functions as they are now
    replaced: Any = torch
    replaced.tensor, replaced.as_tensor = _made_there(torch.tensor), _made_there(torch.as_tensor)
    replaced.save = _with_held(torch.save)
    files: Any = peft.peft_model
    files.safe_save_file = _with_held(files.safe_save_file)
    of_tensors: Any = torch.Tensor
    for name in ("untyped_storage", "storage", "tolist"):
        setattr(of_tensors, name, _with_held(getattr(torch.Tensor, name)))
    of_tensors.numpy = _refuse_numpy(torch.Tensor.numpy)


def _made_there(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != NAME:
            return original(data, *args, device=device, **options)
        return original(held(data), *args, **options).to(device)

    return make


def _with_held(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(first: Any, *args: Any, **options: Any) -> Any:
        return original(torch.utils._pytree.tree_map(held, first), *args, **options)

    return call


def _refuse_numpy(original: Callable[..., Any]) -> Callable[..., Any]:
    def numpy(tensor: torch.Tensor, **options: Any) -> Any:
        if isinstance(tensor, There):
            raise TypeError("numpy() of a tensor on the device")
        return original(tensor, **options)

    return numpy


def _attend_as_a_gpu() -> None:
    """A GPU's kernels never make all scores of attention, nor does this one of the processor."""
    library: Any = ATTENTION
    library.impl("scaled_dot_product_attention", _attention, "AutogradCUDA")


def _attention(  # noqa: PLR0917  (the operator's own)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    if query.dim() == 4 and not dropout_p and query.size(-1) == value.size(-1):
        attend, options = aten._scaled_dot_product_flash_attention_for_cpu, {"attn_mask": attn_mask}
        found = attend(query, key, value, dropout_p, is_causal, **options, scale=scale)
    else:
        attend = aten._scaled_dot_product_attention_math
        found = attend(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    attended: torch.Tensor = found[0]
    return attended
