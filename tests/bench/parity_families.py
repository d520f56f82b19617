"""Trainer against served adapter in every architecture that can be trained: mean KL beside the base's alone.

The models are tiny and random, quantised by llama.cpp; the adapters are random, and as large as trained ones.
The base alone differs because llama.cpp rounds activations: to 8 bits for quantised weights, to 16 for F16.

Much of a mean KL lies in a few tokens: where a router was about to choose the other expert, or where a head
of Qwen 3.5 says almost nothing and the norm behind it makes as much of that as of any other. Which tokens
these are is chance, and they are others with an adapter than without. So there are several models of each
architecture, each with an adapter of its own, and the error of the ratio is shown. With 16 bits fewer than
one token of a hundred is moved by a router that chose otherwise, and these few hold nearly all of the
divergence: experts in F16 are asked about many more tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tests import tiny
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.tiny.reference import Array, Loras, Model, mean_kl, open_model

from llamaleon_convert import convert
from llamaleon_trainer.base.load import load_base
from llamaleon_trainer.job import JobSpec, LoraSettings
from llamaleon_trainer.lora import add_lora, save_lora

FAMILIES = (*tiny.FAMILIES, *tiny.MORE_FAMILIES, *tiny.MIXED_FAMILIES)
KINDS = ("F32", "F16", "Q8_0", "Q4_0")
MODELS = 5  # of an architecture and file type
ROUTED = frozenset({"qwen3moe", "granitemoe", "mixtral", "gpt-oss", "granitehybrid"})
WIDEST = "qwen35"  # the architecture without experts whose ratio varies most in F16
FEW, MANY, LENGTH, AT_ONCE = 20, 500, 60, 20
ROWS = np.random.default_rng(1).integers(3, 253, (MANY, LENGTH))
CPU = torch.device("cpu")
Rows = npt.NDArray[np.int64]  # (n_rows, LENGTH) of token ids
Pairs = list[tuple[float, float]]  # of each model: mean KL of the base alone, and with the adapter
Found = dict[str, Pairs]  # by architecture


def measure(scratch: Path, options: Options) -> list[Figure]:
    models = range(2 if options.quick else MODELS)

    def pairs(family: str, kind: str, *, rounded: bool = False) -> Pairs:
        return [divergences(scratch, family, kind, seed=seed, rounded=rounded) for seed in models]

    kinds = KINDS[-1:] if options.quick else KINDS
    found = {kind: {family: pairs(family, kind) for family in FAMILIES} for kind in kinds}
    figures = [_figure(kind, families) for kind, families in found.items()]
    figures = [*figures[:-1], replace(figures[-1], detail=_table(found))]
    return [*figures, _rounded(pairs(WIDEST, "F16", rounded=True))]


def _figure(kind: str, found: Found) -> Figure:
    ratios = {family: _ratio(pairs) for family, pairs in found.items()}
    worst = max(ratios, key=lambda family: ratios[family])
    base, adapter = _means(found[worst])
    return Figure(
        f"parity of the served adapter over the base alone, {kind}, {len(found)} architectures; worst: "
        f"{worst}, {adapter:.1e} over {base:.1e}, with its standard error over {len(found[worst])} models",
        _shown(ratios[worst]),
        "at most 2",
        {family: ratio for family, (ratio, _) in ratios.items()},
    )


def _rounded(pairs: Pairs) -> Figure:
    base, adapter = _means(pairs)
    return Figure(
        f"the same, {WIDEST} in F16, with activations rounded to 16 bits in the trainer too: "
        f"{adapter:.1e} over {base:.1e}",
        _shown(_ratio(pairs)),
        None,
        {"base_kl": base, "adapter_kl": adapter},
    )


def _means(pairs: Pairs) -> tuple[float, float]:
    base, adapter = np.mean(pairs, axis=0)
    return float(base), float(adapter)


def _ratio(pairs: Pairs) -> tuple[float, float]:
    """Of the means over the models; and its standard error, by leaving out one model at a time."""
    base, adapter = np.array(pairs).T
    without = (adapter.sum() - adapter) / (base.sum() - base)
    return float(adapter.sum() / base.sum()), float(without.std() * (len(pairs) - 1) ** 0.5)


def _shown(ratio: tuple[float, float]) -> str:
    return f"{ratio[0]:.2f} ± {ratio[1]:.2f}"


def _table(found: dict[str, Found]) -> str:
    lines = [
        f"| mean KL: base alone, with adapter: ratio | {' | '.join(found)} |",
        "|---|" + "--:|" * len(found),
    ]
    for family in FAMILIES:
        cells = [_cell(families[family]) for families in found.values()]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(pairs: Pairs) -> str:
    base, adapter = _means(pairs)
    return f"{base:.1e}, {adapter:.1e}: {_shown(_ratio(pairs))}"


def divergences(
    scratch: Path, family: str, kind: str, *, seed: int = 0, rounded: bool = False
) -> tuple[float, float]:
    """Mean KL per token of the trainer's model from llama.cpp's: without adapter and with.

    Args:
        rounded: the trainer rounds what goes into the base's linear layers to 16 bits, as llama.cpp does for
            weights in F16; what is left of the divergence is not of that rounding.
    """
    rows = ROWS[: MANY if kind == "F16" and family in ROUTED else FEW]
    room = scratch / f"{family}-{kind}-{seed}{'-rounded' * rounded}"
    path = tiny.make(family, room, file_type=kind, seed=seed).gguf
    model = load_base(path, CPU, torch.float32)
    plain = _logits(model, rows, rounded=rounded)
    wrapped = add_lora(model, JobSpec(job_id="parity", base=str(path), lora=LoraSettings(r=8, lora_alpha=8)))
    generator = torch.Generator().manual_seed(5 + seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            size = 0.4 if "lora_B" in name else 1.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = noise * size * parameter.shape[-1] ** -0.5
    adapted = _logits(wrapped.eval(), rows, rounded=rounded)
    save_lora(wrapped, room / "adapter")
    convert(room / "adapter", path, room / "lora.gguf")
    with open_model(path) as served:
        base = _divergence(served, [], rows, plain)
        return base, _divergence(served, [(room / "lora.gguf", 1.0)], rows, adapted)


def _divergence(served: Model, loras: Loras, rows: Rows, trained: Array) -> float:
    pairs = zip(rows.tolist(), trained, strict=True)
    return float(np.mean([mean_kl(served.logits(tokens, loras), own) for tokens, own in pairs]))


@torch.no_grad()
def _logits(model: torch.nn.Module, rows: Rows, *, rounded: bool) -> Array:
    """Shape (n_rows, LENGTH, n_vocab)."""
    with _half_activations(model, on=rounded):
        pieces = np.split(rows, len(rows) // AT_ONCE)
        return np.concatenate([model(input_ids=torch.tensor(piece)).logits.numpy() for piece in pieces])


@contextmanager
def _half_activations(model: torch.nn.Module, *, on: bool) -> Iterator[None]:
    def halve(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].half().float(), *inputs[1:])

    named = model.named_modules() if on else ()
    linears = [
        module for name, module in named if isinstance(module, torch.nn.Linear) and "lora_" not in name
    ]
    handles = [module.register_forward_pre_hook(halve) for module in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
