"""The optimizers of `job.OPTIMIZERS`. All are AdamW; they differ in how its two moments lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .job import JobSpec


def make_optimizer(parameters: Sequence[torch.Tensor], spec: JobSpec) -> torch.optim.Optimizer:
    """Raises: ModuleNotFoundError when an 8-bit or paged one is asked for and bitsandbytes is missing."""
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
    import bitsandbytes

    # A processor's memory is paged by the system already; bitsandbytes pages a GPU's.
    paged = spec.optimizer.startswith("paged") and parameters[0].device.type != "cpu"
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        weight_decay=spec.weight_decay,
        optim_bits=8 if spec.optimizer.endswith("8bit") else 32,
        is_paged=paged,
    )
    return made
