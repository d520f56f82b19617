"""The base as its file has it, for proofs. NF4 is not what is served, and a GPU need not hold both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .base.load import load_base
from .job import JobSpec
from .lora import add_lora, copy_lora
from .scoring import Scorer


def proved_apart(spec: JobSpec, weights: str) -> bool:
    """Whether proofs run on a model of their own. A base from a Hugging Face directory has no blocks for one:
    its proofs are as rough as NF4 is.
    """
    return weights == "nf4" and not Path(spec.base).is_dir()


def blocks_scorer(spec: JobSpec, device: torch.device, dtype: torch.dtype) -> Scorer:
    """Of the blocks that are served."""
    return Scorer(load_base(Path(spec.base), device, dtype, "gguf"), device, autocast=False)


def scorer_instead(scorer: Scorer, spec: JobSpec, wrapped: Any) -> Scorer:
    """Of the served blocks under the adapter of `wrapped`, whose own base is emptied: it ends with this."""
    dtype = scorer.model.get_input_embeddings().weight.dtype
    for parameter in wrapped.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.new_empty(0)
    instead = blocks_scorer(spec, scorer.device, dtype)
    copy_lora(wrapped, add_lora(instead.model, spec))
    return instead
