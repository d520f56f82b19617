"""Blocks of 256 values whose parts have scales of their own, themselves quantised."""

from __future__ import annotations

import torch

from .bits import Tensor, each_byte, fields, half, look_up, table, words
from .simple import IQ4_VALUES


def q2_k(blocks: Tensor) -> Tensor:
    """16 parts of 16 values, each with a scale and a minimum of four bits."""
    scales = blocks[:, :16]
    scale = half(blocks, 80) * (scales & 0xF).float()
    minimum = half(blocks, 82) * (scales >> 4).float()
    return _parts(fields(blocks[:, 16:80], 2, 32), scale, minimum)


def q3_k(blocks: Tensor) -> Tensor:
    """16 parts of 16 values: two bits in one place, the third in another, scales of six bits in two."""
    packed = blocks[:, 96:108]
    scales = fields(packed[:, :8], 4, 8) | (fields(packed[:, 8:], 2, 4) << 4)
    scale = half(blocks, 108) * (scales.float() - 32)
    high = fields(blocks[:, :32], 1, 32) << 2
    return _parts((fields(blocks[:, 32:96], 2, 32) | high).float() - 4, scale)


def q4_k(blocks: Tensor) -> Tensor:
    """8 parts of 32 values, each with a scale and a minimum of six bits."""
    return _parts(fields(blocks[:, 16:], 4, 32), *_scales(blocks))


def q5_k(blocks: Tensor) -> Tensor:
    values = fields(blocks[:, 48:], 4, 32) | (fields(blocks[:, 16:48], 1, 32) << 4)
    return _parts(values, *_scales(blocks))


def q6_k(blocks: Tensor) -> Tensor:
    """16 parts of 16 values: four bits in one place, two in another, scales of eight."""
    scale = half(blocks, 208) * blocks[:, 192:208].view(torch.int8).float()
    values = fields(blocks[:, :128], 4, 64) | (fields(blocks[:, 128:192], 2, 32) << 4)
    return _parts(values.float() - 32, scale)


def iq4_xs(blocks: Tensor) -> Tensor:
    """8 parts of 32 values of IQ4_NL's table, with scales of six bits."""
    high = (words(blocks[:, 2:4], 2) >> torch.arange(0, 16, 2, device=blocks.device)) & 3
    scale = half(blocks, 0) * ((each_byte(blocks[:, 4:8], 4) | (high << 4)).float() - 32)
    return _parts(look_up(table(IQ4_VALUES, blocks.device), fields(blocks[:, 8:], 4, 16)), scale)


def _parts(values: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """`values`, (n, 256), times the scale of their part, less its minimum; both (n, n_parts)."""
    parted = values.view(len(values), scale.shape[1], -1).float() * scale[..., None]
    if minimum is not None:
        parted -= minimum[..., None]
    return parted.view(len(values), -1)


def _scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of Q4_K and Q5_K, (n, 8) each: twelve bytes hold sixteen numbers of six bits.

    Source: ggml-quants.c, `get_scale_min_k4`.
    """
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([a & 63, (c & 0xF) | ((a >> 2) & 0x30)], dim=1)
    minima = torch.cat([b & 63, (c >> 4) | ((b >> 2) & 0x30)], dim=1)
    return half(blocks, 0) * scales.float(), half(blocks, 2) * minima.float()
