"""What a job will take, before it starts: its peak of memory and its time. No torch here.

Memory is counted: weights, adapter and optimizer state, and what the longest pass keeps for its backward
pass. Time is work over speed: matrix products, numbers that pass through the layers' other operations, and
layers started; what each of the three costs here is learnt from the jobs that ran (speeds.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct

from llamaleon_convert.header import Header

from .base.choice import full_bytes, packed_bytes
from .job import JobSpec

# As batches.py has them: rows are sorted among so many batches, and padded to whole multiples.
WINDOW_BATCHES, WIDTH_MULTIPLE = 16, 32
EVALUATIONS = 10
COUNTED = 0.5  # of a row's tokens, where only lengths are known
FLOAT = 4  # bytes
# Python, torch, transformers and peft in a process. What a context takes of a GPU is not counted.
RUNTIME_BYTES = {"cpu": 560 << 20, "cuda": 0}
# Numbers that a block keeps for each token, in units of its widths, beside keys and values: the inputs of
# norms and of the LoRA layers, queries, attention's output and the products of the MLP. Counted in
# transformers' Llama, which every family resembles.
KEPT_HIDDEN, KEPT_FFN = 7, 4
OPTIMIZER_BYTES = {"adamw": 8, "paged_adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
HEAD_CHUNK = {"cpu": 2**24, "cuda": 2**26}  # logits that exist at once (losses.py)
# Names of transformers modules that a job may choose, and the GGUF's.
MODULES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
    "gate_up_proj": "ffn_up",
    "c_attn": "attn_qkv",
    "c_fc": "ffn_up",
}
STARTUP_S = 8.0  # importing torch, loading a small base


class Speed(Struct, frozen=True):
    """What work costs on one device in one precision, in seconds."""

    per_flop: float
    per_number: float  # of those that pass through a block (see `Work.numbers`)
    per_layer: float  # a block's forward and backward pass, however little goes through
    load_bytes_per_s: float = 3e8  # of a base's full weights, into memory
    basis: str = "measured"

    def seconds(self, work: Work) -> float:
        return self.per_flop * work.flops + self.per_number * work.numbers + self.per_layer * work.layers

    def scaled(self, factor: float, basis: str) -> Speed:
        return Speed(
            self.per_flop * factor,
            self.per_number * factor,
            self.per_layer * factor,
            self.load_bytes_per_s,
            basis,
        )


# Two cores of a server of 2023 in float32, for when nothing was measured.
GUESS = Speed(
    per_flop=1 / 60e9, per_number=1.5e-9, per_layer=1.5e-3, basis="guess: nothing was measured here"
)


class Work(NamedTuple):
    """Of forward and backward passes."""

    flops: float = 0.0
    numbers: float = 0.0  # tokens times what a block keeps of each, over all blocks
    layers: float = 0.0

    def plus(self, other: Work, times: float = 1.0) -> Work:
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


class Estimate(Struct, frozen=True):
    """`memory_bytes` is the most that the device (a CPU: the process) will hold at once."""

    memory_bytes: int
    seconds: float
    steps: int
    tokens: int  # trained, over all epochs
    basis: str  # what the seconds were reckoned from
    rows_per_pass: int = 1


@dataclass(frozen=True)
class Shape:
    """A base as far as costs go. Widths are in numbers."""

    hidden: int
    ffn: int
    key_value: int
    attention: int
    layers: int
    vocabulary: int
    linear: int  # weights that one token meets in all blocks
    lora: int  # trained weights

    @property
    def kept(self) -> int:
        """Numbers that are kept of a token in one block."""
        return KEPT_HIDDEN * self.hidden + 2 * self.key_value + KEPT_FFN * self.ffn


def shape_of(base: Header, spec: JobSpec) -> Shape:
    blocks = {name: info.shape for name, info in base.tensors.items() if name.startswith("blk.")}
    linears = {name: extents for name, extents in blocks.items() if len(extents) > 1 and "norm" not in name}
    used = base.model_value("expert_used_count")
    experts = base.model_value("expert_count")
    active = used / experts if isinstance(used, int) and isinstance(experts, int) and experts else 1.0
    linear, lora, chosen = 0.0, 0, _chosen(spec)
    ffn = attention = key_value = 0
    for name, extents in linears.items():
        part = name.split(".")[2]
        linear += math.prod(extents) * (active if len(extents) > 2 else 1.0)
        if len(extents) == 2 and (chosen is None or part in chosen):
            lora += spec.lora.r * sum(extents)
        if part == "ffn_down":
            ffn = max(ffn, extents[0])
        elif part == "attn_output":
            attention = max(attention, extents[0])
        elif part == "attn_k":
            key_value = max(key_value, extents[1])
    hidden = base.embedding_length
    return Shape(
        hidden=hidden,
        ffn=ffn or 4 * hidden,
        key_value=key_value or hidden,
        attention=attention or hidden,
        layers=base.block_count,
        vocabulary=base.vocab_size,
        linear=round(linear),
        lora=lora,
    )


def _chosen(spec: JobSpec) -> set[str] | None:
    """GGUF names of the layers that are trained; None for all."""
    wanted = spec.lora.target_modules
    if isinstance(wanted, str):
        return None
    return {MODULES.get(name.rsplit(".", 1)[-1], name) for name in wanted}


def pass_work(shape: Shape, rows: Sequence[int], counted: float, *, trained: bool, recomputed: bool) -> Work:
    """Of one pass over rows of so many tokens each (padding included), `counted` of which are predicted."""
    tokens = sum(rows)
    products = 2.0 * shape.linear * tokens
    # Causal: each token sees half of its row, twice (scores, then values).
    products += 2.0 * shape.layers * shape.attention * sum(row * row for row in rows)
    adapter = 2.0 * shape.lora * tokens
    head = 2.0 * shape.vocabulary * shape.hidden * counted
    numbers = float(tokens * shape.kept * shape.layers)
    if not trained:
        return Work(products + adapter + head, numbers / 3, shape.layers / 3)
    again = 1.0 if recomputed else 0.0
    # Backwards a frozen layer costs once more what it did forwards, an adapter twice.
    flops = (2.0 + again) * products + (3.0 + again) * adapter + 2.0 * head
    return Work(flops, numbers * (1 + again / 3), shape.layers * (1 + again / 3))


def passes(
    lengths: Sequence[int], spec: JobSpec, rows_per_pass: int, *, seed: int = 0
) -> Iterator[list[int]]:
    """The rows of each pass of one epoch, with their padding: like the trainer's, if not the same ones."""
    order = list(lengths)
    random.Random(seed).shuffle(order)
    window = WINDOW_BATCHES * spec.batch_size if spec.group_by_length else 1
    order = [
        length for start in range(0, len(order), window) for length in sorted(order[start : start + window])
    ]
    budget = rows_per_pass * max(lengths)
    for start in range(0, len(order), spec.batch_size):
        batch = order[start : start + spec.batch_size]
        if spec.packing:
            yield from _packed(batch, budget)
            continue
        for first in range(0, len(batch), rows_per_pass):
            piece = batch[first : first + rows_per_pass]
            yield [rounded(max(piece))] * len(piece)


def _packed(batch: Sequence[int], budget: int) -> Iterator[list[int]]:
    piece: list[int] = []
    for length in batch:
        if piece and sum(piece) + length > budget:
            yield piece
            piece = []
        piece.append(length)
    yield piece


def rounded(width: int) -> int:
    return math.ceil(width / WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def pass_bytes(shape: Shape, spec: JobSpec, tokens: int, device: str = "cpu") -> int:
    """What a pass over so many tokens holds at its peak."""
    per_token = shape.kept * shape.layers
    if spec.gradient_checkpointing:  # each block's input, and one block whole
        per_token = shape.layers * shape.hidden + shape.kept
    # Beside what is kept, one block's gradients.
    kept = FLOAT * tokens * (per_token + shape.kept)
    return kept + head_bytes(shape, device) + FLOAT * 4 * tokens * shape.hidden


def head_bytes(shape: Shape, device: str) -> int:
    """Logits of a part and their gradient; a small vocabulary's pass has no more than these tokens."""
    return 2 * FLOAT * min(HEAD_CHUNK[device], CPU_PASS_TOKENS * shape.vocabulary)


def fixed_bytes(base: Header, shape: Shape, spec: JobSpec, device: str = "cpu") -> int:
    """What does not depend on what goes through: the base, the adapter and its optimizer's state."""
    trained = shape.lora * (2 * FLOAT + OPTIMIZER_BYTES[spec.optimizer])
    weight_bytes = 2 if device == "cuda" and spec.precision != "float32" else FLOAT
    kinds = {"full": full_bytes(base, weight_bytes), "gguf": packed_bytes(base), "nf4": 0}
    kinds["nf4"] = _nf4_bytes(base, weight_bytes)
    weights = kinds.get(spec.base_weights, kinds["full"])
    if spec.sharding == "fsdp":
        weights //= spec.processes
    return RUNTIME_BYTES[device] + weights + trained


def _nf4_bytes(base: Header, weight_bytes: int) -> int:
    """Four bits a weight of a block's layers and a scale for every 64; the rest is full."""
    total = 0.0
    for name, info in base.tensors.items():
        narrow = name.startswith("blk.") and len(info.shape) > 1
        total += math.prod(info.shape) * (0.53 if narrow else weight_bytes)
    return round(total)


def rows_that_fit(shape: Shape, spec: JobSpec, longest: int, free_bytes: float, device: str = "cpu") -> int:
    """Most rows of the longest length whose pass fits into `free_bytes`; at least one."""
    rows = spec.batch_size
    while rows > 1 and pass_bytes(shape, spec, rows * rounded(longest), device) > free_bytes:
        rows = (rows + 1) // 2
    return rows


def estimate(
    base: Header,
    spec: JobSpec,
    lengths: Sequence[int],
    speed: Speed | None = None,
    *,
    valid_lengths: Sequence[int] = (),
    device: str = "cpu",
    rows_per_pass: int | None = None,
) -> Estimate:
    """What the job will take, from the header of its base and the lengths of its rows in tokens.

    Args:
        speed: of this machine, better of this base on it (`speeds.read`); None guesses.
        device: "cpu" or "cuda".
        rows_per_pass: None: the job's, or what the trainer would choose with plenty of memory.

    Raises: ValueError without a row.
    """
    if not lengths:
        raise ValueError("no rows: nothing to estimate")
    capped = [min(length, spec.max_sequence_tokens) for length in lengths]
    shape, speed = shape_of(base, spec), speed or GUESS
    rows = rows_per_pass or spec.micro_batch_size or default_rows(max(capped), spec.batch_size, device)
    epoch, longest = Work(), 0
    for piece in passes(capped, spec, rows):
        work = pass_work(
            shape, piece, COUNTED * sum(piece), trained=True, recomputed=spec.gradient_checkpointing
        )
        epoch, longest = epoch.plus(work), max(longest, sum(piece))
    steps_per_epoch = math.ceil(len(capped) / spec.batch_size)
    steps = min(steps_per_epoch * spec.epochs, spec.max_steps or steps_per_epoch * spec.epochs)
    share = steps / steps_per_epoch
    total = Work().plus(epoch, share / spec.processes)
    if valid_lengths:
        total = total.plus(
            pass_work(shape, valid_lengths, COUNTED * sum(valid_lengths), trained=False, recomputed=False),
            evaluations(spec, steps),
        )
    weights = fixed_bytes(base, shape, spec, device)
    return Estimate(
        memory_bytes=weights + pass_bytes(shape, spec, longest, device),
        seconds=speed.seconds(total) + STARTUP_S + full_bytes(base, FLOAT) / speed.load_bytes_per_s,
        steps=steps,
        tokens=round(sum(capped) * share),
        basis=speed.basis,
        rows_per_pass=rows,
    )


def evaluations(spec: JobSpec, steps: int) -> int:
    """How often the held-out rows are looked at: before the first step, then ten times or as the job says."""
    return 1 + steps // (spec.eval_every_steps or max(1, steps // EVALUATIONS))


def default_rows(longest: int, batch_size: int, device: str) -> int:
    """Rows of a pass where memory is plenty: on a GPU all; on a CPU more are no faster, only larger."""
    if device != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_PASS_TOKENS // rounded(longest)))


CPU_PASS_TOKENS = 1024
