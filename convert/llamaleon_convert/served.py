"""A's and B's whose numbers change on their way from PEFT to llama.cpp: stacked, transposed, multiplied."""

from __future__ import annotations

import numpy as np

from llamaleon_convert.floats import Weights
from llamaleon_convert.plan import Target
from llamaleon_convert.safetensors_file import SafetensorsFile


def served(target: Target, weights: SafetensorsFile, factor: float) -> tuple[Weights, Weights]:
    """A and B of one tensor as llama.cpp has them, B multiplied by `factor`."""
    if len(target.sources) > 1:
        return _stacked_experts(target, weights, factor)
    (source,) = target.sources
    assert source is not None
    a, b = weights.read(source.a), _multiplied(weights.read(source.b), factor * source.factor)
    if target.experts is not None:  # PEFT 0.21, `ParamWrapper.get_delta_weight`
        a = a.reshape(target.experts, -1, a.shape[-1])
        b = b.reshape(b.shape[0], -1, target.experts).transpose(2, 0, 1)
    if target.rows is not None:
        b = b[..., target.rows, :]
    if target.columns is not None:
        a = a[..., target.columns]
    return (a.T if target.transpose_a else a), b


def _stacked_experts(target: Target, weights: SafetensorsFile, factor: float) -> tuple[Weights, Weights]:
    a, b = np.zeros(target.a_shape, np.float32), np.zeros(target.b_shape, np.float32)
    for number, source in enumerate(target.sources):
        if source is not None:
            a[number, : source.rank] = weights.read(source.a)
            # llama.cpp divides by the rank of all, PEFT by that of each
            b[number, :, : source.rank] = _multiplied(weights.read(source.b), factor * source.factor)
    return a, b


def _multiplied(b: Weights, factor: float) -> Weights:
    return b if factor == 1.0 else b.astype(np.float32) * np.float32(factor)
