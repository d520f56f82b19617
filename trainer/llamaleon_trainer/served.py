"""The model that proofs run on. NF4 is not what is served: there it is the base as the file has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base.load import load_base
from .job import JobSpec
from .lora import add_lora, copy_lora
from .scoring import Scorer


def served_scorer(scorer: Scorer, spec: JobSpec, wrapped: Any = None) -> Scorer:
    """`scorer`, or for a base in NF4 another on the served blocks, with the adapter of `wrapped`, if given.

    A base from a Hugging Face directory has no such blocks: its proofs are as rough as NF4 is.
    """
    model = scorer.model
    if model.base_weights != "nf4" or model.gguf_header is None:
        return scorer
    dtype = model.get_input_embeddings().weight.dtype
    base = load_base(Path(spec.base), scorer.device, dtype, "gguf")
    if wrapped is not None:
        copy_lora(wrapped, add_lora(base, spec))
    return Scorer(base, scorer.device, autocast=scorer.autocast)
