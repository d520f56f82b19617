"""Where the parameters of a transformers model lie in a GGUF, and what llama.cpp's conversion did to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from llamaleon_convert.header import Header

from ..errors import BaseUnsupported
from .config import Family
from .tensors import Tensors

Tensor = torch.Tensor
PARAMETER = re.compile(r"(?:model|transformer)\.(?:layers|h)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Place:
    """One parameter: its tensors, joined along their rows, then put in order, then undone.

    Row i of the parameter is row `rows[i]` of the joined tensors, column j column `columns[j]`; both keep the
    blocks of a packed row together. What `undo` does to values can only be done to dequantised ones.
    """

    names: tuple[str, ...]
    rows: Tensor | None = None
    columns: Tensor | None = None
    undo: Callable[[Tensor], Tensor] | None = None
    join: Callable[[list[Tensor]], Tensor] = torch.cat

    @property
    def packable(self) -> bool:
        return self.undo is None

    def value(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else self.join(parts)
        whole = whole if self.rows is None else whole[self.rows]
        whole = whole if self.columns is None else whole[:, self.columns]
        return whole if self.undo is None else self.undo(whole)


class Places:
    """Of one model."""

    def __init__(self, tensors: Tensors, family: Family, config: Any) -> None:
        self._tensors = tensors
        self._header = tensors.header
        self._family = family
        self._config = config

    def of(self, parameter: str) -> Place:
        """Raises: BaseUnsupported for a parameter that has no place in such a GGUF."""
        match = PARAMETER.fullmatch(parameter)
        if match and (special := self._special(f"blk.{match[1]}", match[2])):
            return special
        name = self._tensors.name_of(parameter)
        if name is None:
            raise BaseUnsupported(f"{self._header.architecture} GGUFs have no tensor for {parameter}")
        return self._plain(name)

    def _plain(self, name: str) -> Place:
        part = name.split(".")[-2]
        if self._family.permuted and part in ("attn_q", "attn_k"):
            return Place((name,), rows=interleaved_rows(self._header, name))
        if self._family.norm_offset and part.endswith("norm"):
            return Place((name,), undo=lambda values: values - self._family.norm_offset)
        if part in self._family.transposed and name.endswith("weight"):
            return Place((name,), undo=lambda values: values.T.contiguous())
        return Place((name,))

    def _special(self, block: str, part: str) -> Place | None:
        """What differs from gguf-py's list of names, or has no name there."""
        if "experts." in part:
            return self._experts(block, part.rpartition(".")[2])
        if part.startswith(("block_sparse_moe.router", "mlp.router", "mlp.gate.")):
            return Place((f"{block}.ffn_gate_inp.{part.rpartition('.')[2]}",))
        if part.startswith("shared_mlp."):
            return self._shared(block, part)
        if part.startswith("mamba."):
            return _mamba(block, part.removeprefix("mamba."))
        if part.startswith("linear_attn."):
            return _delta_net(block, part.removeprefix("linear_attn."), self._config)
        if part == "conv.conv.weight":
            return Place((f"{block}.shortconv.conv.weight",), undo=lambda values: values[:, None])
        if part == "self_attn.sinks":
            return Place((f"{block}.attn_sinks.weight",))
        return None

    def _experts(self, block: str, own: str) -> Place:
        bias = own.endswith("_bias")
        kinds = ("gate", "up") if own.startswith("gate_up") else ("down",)
        names = tuple(f"{block}.ffn_{kind}_exps.{'bias' if bias else 'weight'}" for kind in kinds)
        if self._config.model_type != "gpt_oss":
            return Place(names, join=lambda parts: torch.cat(parts, dim=1))
        turn = None if bias else lambda values: values.transpose(1, 2).contiguous()  # it keeps (n_in, n_out)
        return Place(names, undo=turn, join=lambda parts: torch.stack(parts, dim=2).flatten(1, 2))

    def _shared(self, block: str, part: str) -> Place:
        ending = "_shexp" if f"{block}.ffn_up_shexp.weight" in self._header.tensors else ""
        kinds = ("gate", "up") if "input_linear" in part else ("down",)
        return Place(tuple(f"{block}.ffn_{kind}{ending}.weight" for kind in kinds))


def interleaved_rows(header: Header, name: str) -> Tensor:
    """Where the rows of transformers' q and k lie among llama.cpp's interleaved pairs, in each head.

    Those are 0, d/2, 1, d/2+1, ... Source: llama.cpp convert_hf_to_gguf.py, LlamaModel.permute (the inverse).

    Raises: BaseUnsupported.
    """
    rows = header.tensors[name].shape[-1] if name in header.tensors else 0
    key = "attention.head_count_kv" if name.split(".")[-2] == "attn_k" else "attention.head_count"
    found = header.model_value(key) or header.model_value("attention.head_count")
    heads = found[int(name.split(".")[1])] if isinstance(found, list) else found
    if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
        raise BaseUnsupported(f"{rows} rows of {name} do not divide into {heads!r} heads")
    return torch.arange(rows).view(heads, rows // heads // 2, 2).transpose(1, 2).reshape(-1)


def _mamba(block: str, part: str) -> Place | None:
    """Mamba 2 of llama.cpp: the decay as it is multiplied, not its logarithm; no empty dimensions."""
    match part:
        case "A_log":
            return Place((f"{block}.ssm_a",), undo=lambda values: (-values).log().flatten())
        case "D":
            return Place((f"{block}.ssm_d",), undo=torch.flatten)
        case "dt_bias":
            return Place((f"{block}.ssm_dt.bias",))
        case "conv1d.weight":
            return Place((f"{block}.ssm_conv1d.weight",), undo=lambda values: values[:, None])
        case "norm.weight":
            return Place((f"{block}.ssm_norm.weight",), undo=torch.flatten)
    names = {"in_proj.weight": "ssm_in.weight", "out_proj.weight": "ssm_out.weight"}
    names["conv1d.bias"] = "ssm_conv1d.bias"
    return Place((f"{block}.{names[part]}",)) if part in names else None


def _delta_net(block: str, part: str, config: Any) -> Place | None:
    """Heads of the values take turns in llama.cpp, one of each head of the keys; there they are grouped."""
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    before = 2 * keys * config.linear_key_head_dim

    def grouped(size: int, start: int = 0) -> Tensor:
        """Places of `values` heads of `size` rows each, which follow `start` others that stay."""
        places = torch.arange(values * size).view(values // keys, keys, size)
        return torch.cat([torch.arange(start), start + places.transpose(0, 1).reshape(-1)])

    wide = config.linear_value_head_dim
    match part:
        case "A_log":
            return Place((f"{block}.ssm_a",), rows=grouped(1), undo=lambda decay: (-decay).log())
        case "dt_bias":
            return Place((f"{block}.ssm_dt.bias",), rows=grouped(1))
        case "norm.weight":
            return Place((f"{block}.ssm_norm.weight",))
        case "conv1d.weight":
            return Place(
                (f"{block}.ssm_conv1d.weight",), rows=grouped(wide, before), undo=lambda taps: taps[:, None]
            )
        case "in_proj_qkv.weight":
            return Place((f"{block}.attn_qkv.weight",), rows=grouped(wide, before))
        case "in_proj_z.weight":
            return Place((f"{block}.attn_gate.weight",), rows=grouped(wide))
        case "out_proj.weight":
            return Place((f"{block}.ssm_out.weight",), columns=grouped(wide))
    kinds = {"in_proj_a.weight": "ssm_alpha", "in_proj_b.weight": "ssm_beta"}
    return Place((f"{block}.{kinds[part]}.weight",), rows=grouped(1)) if part in kinds else None
