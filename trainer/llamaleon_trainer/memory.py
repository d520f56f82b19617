"""What a job holds in memory, counted: its weights, and what a pass needs. No torch here."""

from __future__ import annotations

import math
from typing import NamedTuple

from llamaleon_convert.header import Header

from .base.choice import full_bytes, packed_bytes
from .job import JobSpec
from .shape import Shape

FLOAT, NARROW = 4, 2  # bytes
# Python, torch, transformers and peft in a process. What a context takes of a GPU is not counted.
RUNTIME_BYTES = {"cpu": 420 << 20, "cuda": 0}
# What a pass occupies over what it holds: passes of other widths leave holes in the C library's heap (1.6 to
# 1.9 times was seen). To return them at once (M_MMAP_THRESHOLD of 256 KiB) took half as long again.
HOLES = {"cpu": 1.7, "cuda": 1.0}
OPTIMIZER_BYTES = {"adamw": 8, "paged_adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
# Logits that exist at once. On a CPU 64 MiB of them were 5 to 25 % faster than torch's own cross-entropy
# (n_hidden 320 over 32,000 tokens, 512 over 150,000); 16 MiB were slower. A GPU wants larger products.
CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
# A packed head is dequantised anew for every chunk: with so many tokens that is a tenth of the products.
PACKED_CHUNK_ROWS = 256
# Inputs of a block's norms, which stay in float32 where the rest is narrow.
WIDE_HIDDEN = 2


class Passing(NamedTuple):
    """What passes hold at their peak, in bytes, by their tokens."""

    device: str
    fixed: float  # however little goes through
    kept: float  # for the backward pass, a token
    beside: float  # while a block's gradients are computed, a token
    logits: float  # a token, as long as they are no more than `most_logits`
    most_logits: float

    def peak(self, tokens: int) -> int:
        """The head's logits are gone by the time that blocks have gradients, for which a GPU takes their
        memory; the C library seldom does.
        """
        head, beside = min(self.most_logits, self.logits * tokens), self.beside * tokens
        after = max(head, beside) if self.device == "cuda" else head + beside
        return round(HOLES[self.device] * (self.fixed + self.kept * tokens + after))


def reckon(shape: Shape, spec: JobSpec, counted: float, device: str) -> Passing:
    """From widths alone; `counted` is the share of the tokens whose prediction counts."""
    recomputed = spec.gradient_checkpointing
    input_bytes = shape.hidden * _number_bytes(spec, device)
    kept = shape.layers * (input_bytes if recomputed else block_bytes(shape, spec, device))
    ends = 4 * FLOAT * shape.hidden  # embedding and last norm
    return measured(shape, spec, counted, device, fixed=0, kept=kept + ends, recomputed=recomputed)


def measured(
    shape: Shape, spec: JobSpec, counted: float, device: str, *, fixed: float, kept: float, recomputed: bool
) -> Passing:
    """From what was seen to be kept, of which checkpoints hide what a block computes anew."""
    beside = block_bytes(shape, spec, device) * (2 if recomputed else 1)
    return Passing(device, fixed, kept, beside, *_head(shape, spec, counted, device))


def block_bytes(shape: Shape, spec: JobSpec, device: str) -> float:
    """That a block keeps of a token."""
    size = _number_bytes(spec, device)
    wide = 0 if size == FLOAT else WIDE_HIDDEN * FLOAT * shape.hidden - NARROW * shape.hidden
    return size * shape.kept + wide


def _head(shape: Shape, spec: JobSpec, counted: float, device: str) -> tuple[float, float]:
    """Logits in float32, which their gradient replaces; narrow products have both once more, in two bytes."""
    size = FLOAT if spec.precision == "float32" else FLOAT + 2 * NARROW
    least = PACKED_CHUNK_ROWS if spec.base_weights == "gguf" else 1
    rows = max(least, CHUNK_ELEMENTS[device] // shape.vocabulary)
    return size * counted * shape.vocabulary, float(size * rows * shape.vocabulary)


def _number_bytes(spec: JobSpec, device: str) -> int:
    """Of what passes between layers. On a CPU the base is float32, and so is all that its products become."""
    return NARROW if device == "cuda" and spec.precision != "float32" else FLOAT


def peak_bytes(base: Header, shape: Shape, spec: JobSpec, device: str, passing: int) -> int:
    """Of a job whose largest pass takes `passing`: with it the base, the adapter, its optimizer's state."""
    trained = shape.lora * (2 * FLOAT + OPTIMIZER_BYTES[spec.optimizer])
    size = weight_bytes(spec, device)
    packed = packed_bytes(base)
    kinds = {"full": full_bytes(base, size), "gguf": packed, "nf4": _nf4_bytes(base, size)}
    weights = kinds.get(spec.base_weights, kinds["full"])
    if spec.sharding == "fsdp":
        weights //= spec.processes
    held = weights + passing
    if spec.base_weights == "nf4":  # proofs are made on the packed blocks, before it and after it
        held = max(held, packed)
    return RUNTIME_BYTES[device] + trained + held


def weight_bytes(spec: JobSpec, device: str) -> int:
    """Of a weight in full precision. A GPU before RTX 30 has four where the precision is automatic."""
    return _number_bytes(spec, device)


def _nf4_bytes(base: Header, size: int) -> int:
    """Four bits a weight of a block's layers and a scale for every 64; the rest is full."""
    total = 0.0
    for name, info in base.tensors.items():
        narrow = name.startswith("blk.") and len(info.shape) > 1
        total += math.prod(info.shape) * (0.53 if narrow else size)
    return round(total)
