"""GGUF tensors as the weights of a transformers model, full, in NF4 or packed: all of them, or not at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llamaleon_convert.header import TensorInfo

from ..errors import BaseUnsupported
from .config import Family
from .nf4 import nf4_linear
from .packed import PackedEmbedding, PackedExperts, PackedLinear, Stack, combine_of
from .places import Place, Places
from .tensors import Tensors

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


class Filler:
    """Gives every parameter of a model whose parameters lie on the meta device its tensor.

    Raises:
        BaseUnsupported: a parameter without a tensor, a tensor without a parameter, or shapes that differ.
    """

    def __init__(
        self, model: Any, tensors: Tensors, family: Family, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._header = tensors.header
        self._family = family
        self._places = Places(tensors, family, model.config)
        self._dtype = dtype
        self._device = device
        self._unused = set(self._header.tensors) - set(ROPE_FACTORS)

    def fill(self, weights: str) -> None:
        """`weights` is full, nf4 or gguf: how linear layers, and packed also experts and embeddings, lie."""
        head, embedding = self._model.get_output_embeddings(), self._model.get_input_embeddings()
        tied = self._model.config.tie_word_embeddings
        for name, module in list(self._model.named_modules()):
            if tied and module is head:
                continue
            wide = module is embedding or is_linear(module) or _is_experts(module)
            packed = self._packed(name, module) if weights == "gguf" and wide else None
            if packed is not None:
                self._replace(name, packed)
            elif weights == "nf4" and is_linear(module) and module is not head:
                self._replace(name, self._nf4(name, module))
            else:
                self._fill_own(name, module)
        if tied:
            self._tie(head)
        if self._unused:
            raise BaseUnsupported(
                f"the GGUF has tensors that the {self._family.model_type} model has no place for: "
                f"{', '.join(sorted(self._unused)[:5])}{' ...' if len(self._unused) > 5 else ''}"
            )

    def _fill_own(self, name: str, module: nn.Module) -> None:
        for own, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[own] = self._parameter(f"{name}.{own}", parameter.shape)

    def _parameter(self, name: str, shape: torch.Size) -> nn.Parameter:
        """On the device, frozen, in the precision of the job."""
        value = self._value(name)
        self._check_shape(name, value.shape, shape)
        return nn.Parameter(value.to(self._device, self._dtype), requires_grad=False)

    def _value(self, name: str) -> torch.Tensor:
        """Norms are small and sensitive, and undoing an offset in 16 bits would round them: 32 bits."""
        place, infos = self._found(name)
        return place.value([self._tensors.read(info) for info in infos])

    def _packed(self, name: str, module: Any) -> nn.Module | None:
        """The layer on the blocks of the file; None where only dequantised values can be put in order."""
        if _is_experts(module):
            return self._packed_experts(name, module)
        place, infos = self._found(f"{name}.weight")
        turned = _is_conv1d(module)  # its weight is (n_in, n_out): undone by not transposing
        if not (place.packable or turned) or len({info.type for info in infos}) > 1:
            return None
        parts = [self._tensors.packed(info) for info in infos]
        packed = parts[0] if len(parts) == 1 else torch.cat(parts)
        if place.rows is not None:  # whole rows, and each has its blocks for itself
            packed = packed[place.rows]
        n_in = infos[0].shape[0]
        shape = module.weight.shape
        self._check_shape(f"{name}.weight", (len(packed), n_in), shape[::-1] if turned else shape)
        packed = packed.to(self._device)
        if isinstance(module, nn.Embedding):
            scale = getattr(module, "scalar_embed_scale", None)
            return PackedEmbedding(packed, infos[0].type, n_in, self._dtype, scale)
        columns = None if place.columns is None else place.columns.to(self._device)
        return PackedLinear(packed, infos[0].type, n_in, self._bias(name, module), columns)

    def _packed_experts(self, name: str, module: Any) -> nn.Module:
        gate_up, down = module.gate_up_proj.shape, module.down_proj.shape
        if self._model.config.model_type == "gpt_oss":  # it keeps (n_in, n_out)
            gate_up, down = (shape[:1] + shape[:0:-1] for shape in (gate_up, down))
        half = (gate_up[0], gate_up[1] // 2, gate_up[2])
        stacks: dict[str, Stack] = {}
        for own, kinds, shape in (("gate_up_proj", ("gate", "up"), half), ("down_proj", ("down",), down)):
            infos = self._found(f"{name}.{own}")[1]
            biases: list[torch.Tensor | None] = [None] * len(infos)
            if hasattr(module, f"{own}_bias"):
                biases = [self._plain_values(info) for info in self._found(f"{name}.{own}_bias")[1]]
            for kind, info, bias in zip(kinds, infos, biases, strict=True):
                self._check_shape(f"{name}.{kind}", info.shape[::-1], shape)
                packed = self._tensors.packed(info).view(shape[0], shape[1], -1)
                stacks[kind] = Stack(packed.to(self._device), info.type, bias)
        return PackedExperts(stacks, combine_of(module))

    def _plain_values(self, info: TensorInfo) -> torch.Tensor:
        return self._tensors.read(info).to(self._device, self._dtype)

    def _nf4(self, name: str, module: Any) -> nn.Module:
        weight = self._value(f"{name}.weight")
        self._check_shape(f"{name}.weight", weight.shape, module.weight.shape)
        rows = weight.T if _is_conv1d(module) else weight
        layer: nn.Module = nf4_linear(rows.to(self._dtype), self._bias(name, module), self._device)
        return layer

    def _bias(self, name: str, module: Any) -> nn.Parameter | None:
        return None if module.bias is None else self._parameter(f"{name}.bias", module.bias.shape)

    def _tie(self, head: Any) -> None:
        embedding = self._model.get_input_embeddings()
        if isinstance(embedding, PackedEmbedding):
            self._model.set_output_embeddings(
                PackedLinear(embedding.weight.data, embedding.kind, embedding.embedding_dim)
            )
        else:
            head.weight = embedding.weight

    def _found(self, parameter: str) -> tuple[Place, list[TensorInfo]]:
        place = self._places.of(parameter)
        infos = [self._header.tensors[name] for name in place.names if name in self._header.tensors]
        if len(infos) < len(place.names):
            raise BaseUnsupported(
                f"the GGUF has no tensor for the model's {parameter} (expected {' and '.join(place.names)})"
            )
        self._unused -= set(place.names)
        return place, infos

    def _check_shape(self, name: str, found: Any, expected: Any) -> None:
        if tuple(found) != tuple(expected):
            raise BaseUnsupported(
                f"the tensor of {name} has shape {tuple(found)}, but the model needs {tuple(expected)}"
            )

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._model.get_submodule(parent), child, module)


def is_linear(module: Any) -> bool:
    return type(module) is nn.Linear or _is_conv1d(module)


def _is_conv1d(module: Any) -> bool:
    """GPT-2's linear layers, whose weights are (n_in, n_out)."""
    return type(module).__name__ == "Conv1D"


def _is_experts(module: Any) -> bool:
    return all(name in module._parameters for name in ("gate_up_proj", "down_proj"))
