"""What a job will take, before it starts: its peak of memory and its time. No torch here.

Memory is counted (memory.py). Time is work over speed: matrix products, numbers that pass through the layers'
other operations, and layers started; what each of the three costs here is learnt from the jobs that ran
(speeds.py). Rows go into steps and passes as they do in the job (order.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from llamaleon_convert.header import Header

from .base.choice import full_bytes, resolve
from .job import JobSpec
from .memory import peak_bytes, reckon, weight_bytes
from .order import PICKS_MULTIPLE, Lengths, cut, epoch_order, padded, rounded
from .shape import Shape, shape_of

EVALUATIONS = 10
COUNTED = 0.5  # of a row's tokens, where only lengths are known
SHORT_JOB_STEPS = 10  # below, trying passes first would take a good part of the job
TRIED_BATCHES = 4  # what trying takes: one batch three times, and two rows
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
        weights = resolve(spec.base_weights, base, free_bytes, weight_bytes(spec, device))
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
    passing, largest_pass = reckon(shape, spec, counted, device), max(map(reckoned.largest, batches))
    return Estimate(
        memory_bytes=peak_bytes(base, shape, spec, device, passing.peak(largest_pass)),
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
    return full_bytes(base, 4) / speed.load_bytes_per_s


def evaluations(spec: JobSpec, steps: int) -> int:
    """How often the held-out rows are looked at: before the first step, then ten times or as the job says."""
    return 1 + steps // (spec.eval_every_steps or max(1, steps // EVALUATIONS))


def default_rows(longest: int, batch_size: int, device: str) -> int:
    """Rows of a pass where memory is plenty: on a GPU all; on a CPU more are no faster, only larger."""
    if device != "cpu":
        return batch_size
    return max(1, min(batch_size, CPU_PASS_TOKENS // rounded(longest)))


CPU_PASS_TOKENS = 1024
