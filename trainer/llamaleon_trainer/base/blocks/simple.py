"""Types with one scale for a block (or a part of it): the old quantisations, 4-bit floats, ternary ones."""

from __future__ import annotations

import torch

from .bits import Tensor, each_byte, fields, half, look_up, table

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def q1_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * (each_byte(blocks[:, 2:], 1).float() * 2 - 1)


def q4_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * (fields(blocks[:, 2:], 4, 16).float() - 8)


def q4_1(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * fields(blocks[:, 4:], 4, 16).float() + half(blocks, 2)


def q5_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]).float() - 16)


def q5_1(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * _five_bits(blocks[:, 4:8], blocks[:, 8:]).float() + half(blocks, 2)


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    """Bit i of the 32 in `high` is the fifth of value i."""
    return fields(low, 4, 16) | (each_byte(high, 1) << 4)


def q8_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def iq4_nl(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * look_up(table(IQ4_VALUES, blocks.device), fields(blocks[:, 2:], 4, 16))


def mxfp4(blocks: Tensor) -> Tensor:
    """Values of the OCP microscaling format: an exponent for 32 values of E2M1."""
    exponent = blocks[:, :1].int()
    # Half of 2^(e - 127), as the table is doubled; the two smallest are not normal numbers.
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    scale = bits.view(torch.float32)
    return scale * look_up(table(E2M1_DOUBLED, blocks.device), fields(blocks[:, 1:], 4, 16))


def nvfp4(blocks: Tensor) -> Tensor:
    """Four times 16 values of E2M1, each with a scale of unsigned E4M3."""
    scale = blocks[:, :4].int()
    exponent, mantissa = (scale >> 3) & 0xF, (scale & 7).float()
    normal = torch.ldexp(1 + mantissa / 8, exponent - 7)
    value = torch.where(exponent == 0, mantissa * 2**-9, normal) * 0.5
    value = torch.where((scale == 0) | (scale == 0x7F), 0.0, value)
    values = look_up(table(E2M1_DOUBLED, blocks.device), fields(blocks[:, 4:], 4, 8))
    return (value[..., None] * values.view(-1, 4, 16)).view(len(blocks), 64)


def tq2_0(blocks: Tensor) -> Tensor:
    return half(blocks, 64) * (fields(blocks[:, :64], 2, 32).float() - 1)


def tq1_0(blocks: Tensor) -> Tensor:
    """Five ternary digits a byte, but four in the last four bytes."""
    long, short, rest = blocks[:, :32], blocks[:, 32:48], blocks[:, 48:52]
    digits = torch.cat([_digits(long, 5), _digits(short, 5), _digits(rest, 4)], dim=1)
    return half(blocks, 52) * (digits.float() - 1)


def _digits(data: Tensor, count: int) -> Tensor:
    """A byte is a fraction of 256 in base 3: a multiplication, modulo 256, moves its digits up."""
    moved = torch.stack([data * 3**place for place in range(count)], dim=1)
    return ((moved.short() * 3) >> 8).reshape(len(data), -1)
