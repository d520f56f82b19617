"""The IQ types whose values are points of fixed grids; the grids are those of gguf-py."""

from __future__ import annotations

from functools import cache

import gguf.quants
import numpy as np
import torch

from .bits import Tensor, each_byte, half, look_up, words

IQ1_DELTA = 0.125


def iq2_xxs(blocks: Tensor) -> Tensor:
    pairs = words(blocks[:, 2:66], 4).view(len(blocks), -1, 2)
    scale = half(blocks, 0) * (0.5 + (pairs[..., 1] >> 28).float()) * 0.25
    points = look_up(_grid("IQ2_XXS", blocks.device), _at(pairs[..., 0], 8, 4))
    return _signed(scale, points, _seven_bit_signs(pairs[..., 1]))


def iq2_xs(blocks: Tensor) -> Tensor:
    found = words(blocks[:, 2:66], 2)
    scale = half(blocks, 0) * (0.5 + each_byte(blocks[:, 66:74], 4).float()) * 0.25
    points = look_up(_grid("IQ2_XS", blocks.device), found & 511)
    return _signed(scale, points, look_up(_sign_table(blocks.device), found >> 9))


def iq2_s(blocks: Tensor) -> Tensor:
    scale = half(blocks, 0) * (0.5 + each_byte(blocks[:, 74:82], 4).float()) * 0.25
    index = blocks[:, 2:34].int() | (each_byte(blocks[:, 66:74], 2).int() << 8)
    return _signed(scale, look_up(_grid("IQ2_S", blocks.device), index), _signs(blocks[:, 34:66]))


def iq3_xxs(blocks: Tensor) -> Tensor:
    found = words(blocks[:, 66:98], 4)
    scale = half(blocks, 0) * (0.5 + (found >> 28).float()) * 0.5
    points = look_up(_grid("IQ3_XXS", blocks.device), blocks[:, 2:66])
    return _signed(scale, points, _seven_bit_signs(found))


def iq3_s(blocks: Tensor) -> Tensor:
    scale = half(blocks, 0) * (1 + 2 * each_byte(blocks[:, 106:110], 4).float())
    index = blocks[:, 2:66].int() | (each_byte(blocks[:, 66:74], 1).int() << 8)
    return _signed(scale, look_up(_grid("IQ3_S", blocks.device), index), _signs(blocks[:, 74:106]))


def iq1_s(blocks: Tensor) -> Tensor:
    high = words(blocks[:, 34:50], 2)
    scale = half(blocks, 0) * (2 * ((high >> 12) & 7) + 1).float()
    delta = torch.where(high & 0x8000 == 0, IQ1_DELTA, -IQ1_DELTA)
    index = blocks[:, 2:34].long() | ((_at(high, 3, 4) & 7) << 8)
    points = look_up(_grid("IQ1_S", blocks.device), index).view(len(blocks), 8, 32)
    return ((points + delta[..., None]) * scale[..., None]).view(len(blocks), 256)


def iq1_m(blocks: Tensor) -> Tensor:
    """The only one whose float16 scale lies in four places."""
    packed = words(blocks[:, 48:56], 2)
    nibbles = (packed & 0xF000) >> torch.arange(12, -1, -4, device=blocks.device)
    bits = nibbles.sum(dim=1, keepdim=True)
    scale = bits.to(torch.int16).view(torch.float16).float() * (2 * (_at(packed, 3, 4) & 7) + 1).float()
    high = each_byte(blocks[:, 32:48], 4).int()
    delta = torch.where(high & 8 == 0, IQ1_DELTA, -IQ1_DELTA)
    index = blocks[:, :32].int() | ((high & 7) << 8)
    points = look_up(_grid("IQ1_M", blocks.device), index) + delta[..., None]
    return (points.view(len(blocks), 16, 16) * scale[..., None]).view(len(blocks), 256)


def _at(values: Tensor, bits: int, count: int) -> Tensor:
    """The `count` lowest fields of `bits` of each value, (n, values * count); but one of 8 is cut to size."""
    shifts = torch.arange(count, device=values.device) * bits
    return ((values[..., None] >> shifts) & ((1 << bits) - 1)).flatten(1)


def _signed(scale: Tensor, points: Tensor, signs: Tensor) -> Tensor:
    """Scales (n, n_parts) times points times signs, which together have 256 values in a block."""
    n = len(scale)
    values = (scale[..., None] * points.reshape(n, scale.shape[1], -1)).view(n, 256)
    return values * signs.view(n, 256)


def _signs(data: Tensor) -> Tensor:
    """1 or -1 for every bit, (n, bits)."""
    return 1 - 2 * each_byte(data, 1).float()


def _seven_bit_signs(found: Tensor) -> Tensor:
    """The four lowest fields of seven bits of each value stand for eight signs each."""
    return look_up(_sign_table(found.device), _at(found, 7, 4))


@cache
def _sign_table(device: torch.device) -> Tensor:
    """ggml's `ksigns_iq2xs`: seven signs and an eighth that makes their number even, (128, 8)."""
    codes = np.frombuffer(gguf.quants.IQ2_XXS.ksigns, np.uint8)
    return _signs(torch.from_numpy(codes.copy())[:, None]).to(device)


@cache
def _grid(name: str, device: torch.device) -> Tensor:
    """(n_points, 4 or 8) float32."""
    quant = getattr(gguf.quants, name)
    quant.init_grid()
    return torch.from_numpy(np.asarray(quant.grid, np.float32).reshape(quant.grid_shape).copy()).to(device)
