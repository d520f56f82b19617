"""Trainer against served adapter in every architecture that can be trained: mean KL beside the base's alone.

The models are tiny and random, quantised by llama.cpp; the adapter is random, and as large as a trained one.
The base alone differs because llama.cpp rounds activations to 8 bits for quantised weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tests import tiny
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.tiny.reference import mean_kl, open_model

from llamaleon_convert import convert
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora, save_lora

FAMILIES = (*tiny.FAMILIES, *tiny.MORE_FAMILIES, *tiny.MIXED_FAMILIES)
KINDS = ("F32", "F16", "Q8_0", "Q4_0")
SEQUENCES = [[(step * n + step) % 250 + 3 for n in range(60)] for step in (3, 7, 11, 13, 17)]
CPU = torch.device("cpu")
Pairs = dict[str, tuple[float, float]]  # by architecture: of the base alone, and with the adapter


def measure(scratch: Path, options: Options) -> list[Figure]:
    kinds = KINDS[-1:] if options.quick else KINDS
    found = {
        kind: {family: divergences(scratch / kind / family, family, kind) for family in FAMILIES}
        for kind in kinds
    }
    figures = [_figure(kind, pairs) for kind, pairs in found.items()]
    return [*figures[:-1], replace(figures[-1], detail=_table(found))]


def _figure(kind: str, found: Pairs) -> Figure:
    ratios = {family: adapter / base for family, (base, adapter) in found.items()}
    worst = max(ratios, key=lambda family: ratios[family])
    return Figure(
        f"parity of the served adapter over the base alone, {kind}, {len(found)} architectures; worst: "
        f"{worst}, {found[worst][1]:.1e} over {found[worst][0]:.1e}",
        f"{ratios[worst]:.2f}",
        "at most 2",
        ratios,
    )


def _table(found: dict[str, Pairs]) -> str:
    lines = [f"| mean KL: base alone, with adapter | {' | '.join(found)} |", "|---|" + "--:|" * len(found)]
    for family in FAMILIES:
        cells = [f"{pairs[family][0]:.1e}, {pairs[family][1]:.1e}" for pairs in found.values()]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def divergences(room: Path, family: str, kind: str) -> tuple[float, float]:
    """Mean KL per token of the trainer's model from llama.cpp's: without adapter and with."""
    path = tiny.make(family, room, file_type=kind).gguf
    model = load_base(path, CPU, torch.float32)
    plain = _logits(model)
    wrapped = add_lora(model, JobSpec(job_id="parity", base=str(path), lora=LoraSettings(r=8, lora_alpha=8)))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            size = 0.4 if "lora_B" in name else 1.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = noise * size * parameter.shape[-1] ** -0.5
    adapted = _logits(wrapped.eval())
    save_lora(wrapped, room / "adapter")
    convert(room / "adapter", path, room / "lora.gguf")
    with open_model(path) as served:
        base = [served.logits(tokens) for tokens in SEQUENCES]
        with_adapter = [served.logits(tokens, [(room / "lora.gguf", 1.0)]) for tokens in SEQUENCES]
    return mean_kl(np.concatenate(base), plain), mean_kl(np.concatenate(with_adapter), adapted)


@torch.no_grad()
def _logits(model: torch.nn.Module) -> np.ndarray:
    return np.concatenate([model(input_ids=torch.tensor([one])).logits[0].numpy() for one in SEQUENCES])
