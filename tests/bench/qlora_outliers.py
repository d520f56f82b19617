"""Training on the served blocks where a few channels are outliers, as in large models.

What makes large models hard to quantise is that the same few channels of the residual stream are many times
as large as the others in every layer (LLM.int8(), arXiv 2208.07339: about 0.1 % of them, up to 20 times). A
model as small as nano has none. Here it is given some that change no answer: behind a norm, a channel's
activations are multiplied by a power of two and the weights that read it are divided by it. In F16 the model
computes what it did before. In blocks of four bits the small columns lose their digits beside the large ones,
and the 8-bit activations of llama.cpp lose some too.

It is a model of the effect, not a large model: channels and size are chosen here, another draw for each seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.bench.figures import Figure
from tests.bench.options import Options
from tests.bench.qlora import Case, Losses, compare, figure, reports, seeds_of
from tests.data import NANO
from tests.tiny.quantize import quantize
from tests.tiny.reference import mean_kl, open_model

from llamaleon_convert.header import TensorInfo, read_header
from llamaleon_convert.model_writer import write_model
from llamaleon_convert.tensors import Floats, encoded, read_rows
from llamaleon_trainer.job import Row

KIND = "Q4_K_M"
CHANNELS = 4  # of nano's 256
FACTORS = (16, 32)
READERS = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}
COMPARED_ROWS = 12
SAME_KL = 1e-6  # nats a token; nano's F16 alone is 4e-7 from its exact value


def measure(scratch: Path, options: Options) -> list[Figure]:
    learnt, unseen = reports(quick=options.quick)
    compared = unseen[:COMPARED_ROWS]
    found = []
    for factor in FACTORS[:1] if options.quick else FACTORS:
        losses: list[Losses] = []
        moved: list[tuple[float, float]] = []
        for seed in range(seeds_of(options)):
            room = scratch / f"{factor}-{seed}"
            room.mkdir()
            base = with_outliers(NANO, room / "f16.gguf", factor, seed)
            case = Case(
                f"nano with {CHANNELS} outlier channels of {factor} times", base, KIND, learnt, unseen
            )
            moved.append(_moved(base, room / "quantised.gguf", compared))
            losses.append(compare(case, room / "jobs", seed))
        same, quantised = np.mean(moved, axis=0)
        told = f"{case.name} (mean KL to nano: {same:.0e} in F16, {quantised:.3f} in {KIND})"
        one = figure(replace(case, name=told), losses)
        found.append(replace(one, raw=one.raw | {"f16_kl": float(same), "quantised_kl": float(quantised)}))
    return found


def with_outliers(base: Path, target: Path, factor: int, seed: int) -> Path:
    """A copy of `base` that computes the same, with the same channels large behind every norm.

    Args:
        factor: a power of two, so that floating-point weights keep their digits.
    """
    header = read_header(base)
    scale = np.ones(header.embedding_length, np.float32)
    scale[np.random.default_rng(seed).choice(len(scale), CHANNELS, replace=False)] = factor
    factors: dict[str, Floats] = {}
    for block in range(header.block_count):
        for norm, readers in READERS.items():
            factors[f"blk.{block}.{norm}.weight"] = scale
            factors |= {f"blk.{block}.{reader}.weight": np.float32(1) / scale for reader in readers}

    def scaled(tensor: TensorInfo) -> Iterator[bytes]:
        yield encoded(read_rows(tensor) * factors[tensor.name], tensor.type)

    write_model(target, header, {name: header.tensors[name].type for name in factors}, scaled, {})
    return target


def _moved(base: Path, quantised: Path, rows: list[Row]) -> tuple[float, float]:
    """Mean KL from nano of `base` and of its quantised copy. Raises: ValueError if `base` computes other."""
    nano, same, rough = (_logits(path, rows) for path in (NANO, base, quantize(base, quantised, KIND)))
    kl = mean_kl(nano, same)
    if kl > SAME_KL:
        raise ValueError(f"the outliers changed what the model computes: mean KL {kl:.1e}")
    return kl, mean_kl(nano, rough)


def _logits(path: Path, rows: list[Row]) -> Floats:
    with open_model(path) as model:
        return np.concatenate([model.logits(row.tokens) for row in rows])
