"""Options that travel together to llama.cpp: how positions are rotated, and how GPUs share a model."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields
from typing import Any

import llama_cpp.llama_cpp as native

from llamaleon_server.binding.errors import LoadError
from llamaleon_server.binding.library import Device

ROPE_SCALINGS = {
    "none": native.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": native.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": native.LLAMA_ROPE_SCALING_TYPE_YARN,
    "longrope": native.LLAMA_ROPE_SCALING_TYPE_LONGROPE,
}
SPLIT_MODES = {
    "none": native.LLAMA_SPLIT_MODE_NONE,
    "layer": native.LLAMA_SPLIT_MODE_LAYER,
    "row": native.LLAMA_SPLIT_MODE_ROW,
    "tensor": native.LLAMA_SPLIT_MODE_TENSOR,
}


@dataclass(frozen=True, kw_only=True)
class Rope:
    """None: as the GGUF says. Every context of a model takes the same."""

    scaling: str | None = None
    freq_base: float | None = None
    freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None

    def apply(self, params: Any) -> None:
        """Into a `llama_context_params`."""
        if self.scaling is not None:
            params.rope_scaling_type = ROPE_SCALINGS[self.scaling]
        for name in ("freq_base", "freq_scale"):
            value = getattr(self, name)
            if value is not None:
                setattr(params, f"rope_{name}", value)
        for name in (
            "yarn_ext_factor",
            "yarn_attn_factor",
            "yarn_beta_fast",
            "yarn_beta_slow",
            "yarn_orig_ctx",
        ):
            value = getattr(self, name)
            if value is not None:
                setattr(params, name, value)

    def given(self) -> dict[str, int | float | str]:
        """What was asked for, by llama.cpp's names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name if name.startswith("yarn") else f"rope_{name}": value
            for name, value in values.items()
            if value is not None
        }

    def stretched(self, train_tokens: int) -> int:
        """The longest context that the model is good for, trained on so many tokens."""
        return int(train_tokens / self.freq_scale) if self.freq_scale else train_tokens


@dataclass(frozen=True, kw_only=True)
class Split:
    """`shares` of each GPU, in any unit; None: llama.cpp's own, by their free memory."""

    mode: str | None = None
    shares: tuple[float, ...] | None = None
    main_gpu: int | None = None

    def apply(self, params: Any) -> object:
        """Into a `llama_model_params`. Returns what must live until the model is loaded."""
        if self.mode is not None:
            params.split_mode = SPLIT_MODES[self.mode]
        if self.main_gpu is not None:
            params.main_gpu = self.main_gpu
        if self.shares is None:
            return None
        most = native.llama_max_devices()
        if len(self.shares) > most:
            raise LoadError(f"tensor_split has {len(self.shares)} shares; llama.cpp knows {most} devices.")
        shares = (ctypes.c_float * most)(*self.shares)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        return shares

    def used(self, devices: list[Device]) -> list[Device]:
        """The GPUs that take part."""
        if self.mode == "none" and devices:
            main = self.main_gpu or 0
            if main >= len(devices):
                raise LoadError(f"main_gpu {main}: there are {len(devices)} GPUs, counted from 0.")
            return [devices[main]]
        if self.shares is not None:
            return [device for device, share in zip(devices, self.shares, strict=False) if share > 0]
        return devices


AS_TRAINED = Rope()
UNSPLIT = Split()
