"""What a job will take, before it starts: its peak of memory and its time. No torch here.

Memory is counted: weights, adapter and optimizer state, and what the longest pass keeps for its backward
pass. Time is work over speed: matrix products, numbers that pass through the layers' other operations, and
layers started; what each of the three costs here is learnt from the jobs that ran (speeds.py). Rows go into
steps and passes as they do in the job (order.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from llamaleon_convert.header import Header

from .base.choice import full_bytes, packed_bytes, resolve
from .job import JobSpec
from .order import PICKS_MULTIPLE, Lengths, cut, epoch_order, padded, rounded

EVALUATIONS = 10
COUNTED = 0.5  # of a row's tokens, where only lengths are known
SHORT_JOB_STEPS = 10  # below, trying passes first would take a good part of the job
TRIED_BATCHES = 4  # what trying takes: one batch three times, and two rows
FLOAT = 4  # bytes
# Python, torch, transformers and peft in a process. What a context takes of a GPU is not counted.
RUNTIME_BYTES = {"cpu": 420 << 20, "cuda": 0}
# What a pass occupies over what it holds: passes of other widths leave holes in the C library's heap (1.6 to
# 1.9 times was seen). To return them at once (M_MMAP_THRESHOLD of 256 KiB) took half as long again.
HOLES = {"cpu": 1.7, "cuda": 1.0}
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
    start_s: float = STARTUP_S  # of the process, beside the base's weights

    def seconds(self, work: Work) -> float:
        return self.per_flop * work.flops + self.per_number * work.numbers + self.per_layer * work.layers

    def scaled(self, factor: float, basis: str) -> Speed:
        return Speed(
            self.per_flop * factor,
            self.per_number * factor,
            self.per_layer * factor,
            self.load_bytes_per_s,
            basis,
            self.start_s,
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
    picked = math.ceil(counted / PICKS_MULTIPLE) * PICKS_MULTIPLE
    head = 2.0 * shape.vocabulary * shape.hidden * picked
    numbers = float(tokens * shape.kept * shape.layers)
    if not trained:
        return Work(products + adapter + head, numbers / 3, shape.layers / 3)
    again = 1.0 if recomputed else 0.0
    # Backwards a frozen layer costs once more what it did forwards, an adapter twice.
    flops = (2.0 + again) * products + (3.0 + again) * adapter + 2.0 * head
    return Work(flops, numbers * (1 + again / 3), shape.layers * (1 + again / 3))


def asked_ahead(spec: JobSpec) -> bool:
    """Whether a job asks what it starts from about all pairs before its first step (see dpo.py)."""
    return spec.method == "dpo" and (spec.init_adapter is not None or spec.sharding != "none")


def pass_bytes(shape: Shape, spec: JobSpec, tokens: int, device: str = "cpu") -> int:
    """What a pass over so many tokens holds at its peak."""
    per_token = shape.kept * shape.layers
    if spec.gradient_checkpointing:  # each block's input, and one block whole
        per_token = shape.layers * shape.hidden + shape.kept
    # Beside what is kept, one block's gradients.
    kept = FLOAT * tokens * (per_token + shape.kept)
    return kept + head_bytes(shape, spec, device) + FLOAT * 4 * tokens * shape.hidden


def head_bytes(shape: Shape, spec: JobSpec, device: str) -> int:
    """Logits of a part, which their gradient replaces; a small vocabulary's pass has no more than these
    tokens. Narrow products have both once more, in two bytes.
    """
    logits = min(HEAD_CHUNK[device], round(COUNTED * CPU_PASS_TOKENS) * shape.vocabulary)
    return FLOAT * logits * (1 if spec.precision == "float32" else 2)


def fixed_bytes(base: Header, shape: Shape, spec: JobSpec, device: str = "cpu") -> int:
    """What does not depend on what goes through: the base, the adapter and its optimizer's state."""
    trained = shape.lora * (2 * FLOAT + OPTIMIZER_BYTES[spec.optimizer])
    weight_bytes = _weight_bytes(spec, device)
    kinds = {"full": full_bytes(base, weight_bytes), "gguf": packed_bytes(base), "nf4": 0}
    kinds["nf4"] = _nf4_bytes(base, weight_bytes)
    weights = kinds.get(spec.base_weights, kinds["full"])
    if spec.sharding == "fsdp":
        weights //= spec.processes
    return RUNTIME_BYTES[device] + weights + trained


def _weight_bytes(spec: JobSpec, device: str) -> int:
    """Of a weight in full precision. A GPU before RTX 30 has four where the precision is automatic."""
    return 2 if device == "cuda" and spec.precision != "float32" else FLOAT


def _nf4_bytes(base: Header, weight_bytes: int) -> int:
    """Four bits a weight of a block's layers and a scale for every 64; the rest is full."""
    total = 0.0
    for name, info in base.tensors.items():
        narrow = name.startswith("blk.") and len(info.shape) > 1
        total += math.prod(info.shape) * (0.53 if narrow else weight_bytes)
    return round(total)


def estimate(
    base: Header,
    spec: JobSpec,
    lengths: Sequence[int | Lengths],
    speed: Speed | None = None,
    *,
    valid_lengths: Sequence[int | Lengths] = (),
    counted: float = COUNTED,
    device: str = "cpu",
    rows_per_pass: int | None = None,
    free_bytes: int | None = None,
) -> Estimate:
    """What the job will take, from the header of its base and the lengths of its rows in tokens.

    Args:
        lengths: of the rows to train on; of preference rows those of both answers, each with its prompt.
        speed: of this machine, better of this base on it (`speeds.read`); None guesses.
        valid_lengths: of the rows held out.
        counted: the share of the tokens whose prediction counts.
        device: "cpu" or "cuda".
        rows_per_pass: None: the job's, or what the trainer would choose with plenty of memory.
        free_bytes: of the device: what the trainer decides by how `auto` weights lie there. None: plenty.

    Raises: ValueError without a row.
    """
    if not lengths:
        raise ValueError("no rows: nothing to estimate")
    if free_bytes is not None:
        weights = resolve(spec.base_weights, base, free_bytes, _weight_bytes(spec, device))
        spec = replace(spec, base_weights=weights)
    train, valid = ([_read(row, spec) for row in rows] for rows in (lengths, valid_lengths))
    shape, speed = shape_of(base, spec), speed or GUESS
    largest = max(max(row) * len(row) for row in (*train, *valid))
    rows = rows_per_pass or spec.micro_batch_size or default_rows(largest, spec.batch_size, device)
    rows = min(rows, spec.batch_size)
    reckoned = Reckoning(shape, spec, counted, rows * largest)
    batches = reckoned.batches(train)
    steps = len(batches) * spec.epochs
    steps = min(steps, spec.max_steps or steps)
    epochs = steps / len(batches)
    work = reckoned.job(batches, valid, steps)
    if steps >= SHORT_JOB_STEPS:
        work = work.plus(reckoned.work(batches), TRIED_BATCHES / len(batches))
    passing = pass_bytes(shape, spec, max(map(reckoned.largest, batches)), device)
    return Estimate(
        memory_bytes=fixed_bytes(base, shape, spec, device) + round(HOLES[device] * passing),
        seconds=speed.start_s + loading_seconds(base, speed) + speed.seconds(work) / spec.processes,
        steps=steps,
        tokens=round(sum(map(sum, train)) * epochs),
        basis=speed.basis,
        rows_per_pass=rows,
    )


def _read(row: int | Lengths, spec: JobSpec) -> Lengths:
    """What the model reads of a row: up to its limit, and not the last token, which is only predicted."""
    lengths = (row,) if isinstance(row, int) else row
    return tuple(max(1, min(length, spec.max_sequence_tokens) - 1) for length in lengths)


class Reckoning(NamedTuple):
    """The passes of a job, of at most `budget` tokens each, `counted` of which are predicted (a share)."""

    shape: Shape
    spec: JobSpec
    counted: float
    budget: int

    def batches(self, rows: Sequence[Lengths]) -> list[list[Lengths]]:
        """Of the first epoch; the others differ by chance."""
        spec = self.spec
        order = epoch_order(rows, spec.batch_size, spec.seed, 0, by_length=spec.group_by_length)
        return [[rows[place] for place in batch] for batch in order]

    def job(self, batches: Sequence[Sequence[Lengths]], valid: Sequence[Lengths], steps: int) -> Work:
        """Of so many steps, of the looks at the held-out rows, and of what the reference reads of pairs."""
        epochs, looks = steps / len(batches), evaluations(self.spec, steps)
        total = Work().plus(self.work(batches), epochs)
        if self.spec.method == "dpo":
            read = 1.0 if asked_ahead(self.spec) else min(1.0, epochs)
            total, looks = total.plus(self.work(batches, trained=False), read), looks + 1
        return total.plus(self.work([sorted(valid, key=max)], trained=False), looks)

    def work(self, batches: Iterable[Sequence[Lengths]], *, trained: bool = True) -> Work:
        total = Work()
        for batch in batches:
            for rows in self._cut(batch):
                counted = self.counted * sum(map(sum, rows))
                width = padded(rows, packed=self.spec.packing)
                recomputed = self.spec.gradient_checkpointing
                one = pass_work(self.shape, width, counted, trained=trained, recomputed=recomputed)
                total = total.plus(one)
        return total

    def largest(self, batch: Sequence[Lengths]) -> int:
        """Tokens of the batch's largest pass, padding included."""
        return max(sum(padded(rows, packed=self.spec.packing)) for rows in self._cut(batch))

    def _cut(self, batch: Sequence[Lengths]) -> Iterable[Sequence[Lengths]]:
        most = self.spec.micro_batch_size or len(batch)
        for part in cut(batch, self.budget, most=most, packed=self.spec.packing):
            yield batch[part]


def loading_seconds(base: Header, speed: Speed) -> float:
    return full_bytes(base, FLOAT) / speed.load_bytes_per_s


def evaluations(spec: JobSpec, steps: int) -> int:
    """How often the held-out rows are looked at: before the first step, then ten times or as the job says."""
    return 1 + steps // (spec.eval_every_steps or max(1, steps // EVALUATIONS))


def default_rows(longest: int, batch_size: int, device: str) -> int:
    """Rows of a pass where memory is plenty: on a GPU all; on a CPU more are no faster, only larger."""
    if device != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_PASS_TOKENS // rounded(longest)))


CPU_PASS_TOKENS = 1024
