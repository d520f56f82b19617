"""NF4 of bitsandbytes: four bits a weight, drawn from the normal distribution's quantiles, scales in eight.

Source: Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314
"""

from __future__ import annotations

import warnings
from typing import Any

import torch


def nf4_linear(weight: torch.Tensor, bias: torch.nn.Parameter | None, device: torch.device) -> Any:
    """A frozen linear layer on `device` that holds `weight`, (n_out, n_in), in NF4."""
    with warnings.catch_warnings():  # it announces faster kernels of another package
        warnings.simplefilter("ignore")
        from bitsandbytes.nn import Linear4bit, Params4bit

    n_out, n_in = weight.shape
    layer = Linear4bit(n_in, n_out, bias=bias is not None, quant_type="nf4", device="meta")
    # Evaluation on such a processor would store the weights in another order, which training cannot read.
    layer.support_avx512bf16_for_cpu = False
    layer.weight = Params4bit(
        weight.contiguous(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer
    )
    layer.bias = bias
    return layer.to(device)  # which quantises
