"""Before the first step: how much goes through at once, what the job will take, at which rate it learns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from msgspec.structs import replace

from llamaleon_convert.header import read_header

from . import estimate, memory
from .device import held_bytes
from .estimate import SHORT_JOB_STEPS, Speed, Work
from .events import EventWriter
from .inputs import Inputs
from .items import Item, lengths, longest, token_count
from .job import JobSpec
from .lr_finder import find_learning_rate
from .memory import Passing
from .order import padded
from .shape import Shape, shape_of
from .speeds import find_speed, note_speed, speeds_path
from .train import Trainer

USABLE = {"cpu": 0.7, "cuda": 0.9}  # share of the free memory that passes may take
TIMED_PASSES = 2


def preflight(
    wrapped: Any, trainer: Trainer, inputs: Inputs, events: EventWriter, *, job_dir: Path, precision: str
) -> None:
    """Choose the rows of a pass if the job leaves it open, write `estimate`, find the learning rate if asked.

    Nothing that is tried leaves a trace in the weights, the optimizer or the random numbers of the steps.
    """
    if trainer.progress.step:
        return
    device = trainer.computation.parameters[0].device
    began, before = psutil.Process().create_time(), held_bytes(device)
    started_s = time.time() - began
    tries = trainer.steps >= SHORT_JOB_STEPS
    trial = Trial(wrapped, trainer, inputs, precision)
    # Ranks that gather each other's weights have them in what torch saves, for a moment.
    passing = trial.measured() if tries and inputs.spec.sharding == "none" else trial.reckoned()
    if inputs.spec.micro_batch_size is None:
        trial.choose_rows(passing)
    path = speeds_path(job_dir)
    speed = find_speed(path, inputs.spec, device.type, precision)
    if tries:
        speed = trial.timed(speed)
        if trainer.ranks.is_main:
            learnt = replace(speed, start_s=_start_seconds(inputs.spec, speed, started_s))
            note_speed(path, inputs.spec, device.type, precision, learnt)
    events.write(
        "estimate",
        memory_bytes=before + trial.state_bytes() + passing.peak(trial.largest_pass()),
        seconds=time.time() - began + speed.seconds(trial.work()) / trainer.ranks.size,
        basis=speed.basis,
        steps=trainer.steps,
        rows_per_pass=trainer.passes.rows,
    )
    if inputs.spec.find_learning_rate and trainer.progress.learning_rate is None:
        found = find_learning_rate(trainer, inputs.spec.learning_rate, trainer.steps, inputs.spec.seed)
        trainer.progress.learning_rate = found.learning_rate
        events.write("lr_found", learning_rate=found.learning_rate, tried=found.tried, losses=found.losses)


class Trial:
    """Passes of a job that are only tried."""

    def __init__(self, wrapped: Any, trainer: Trainer, inputs: Inputs, precision: str) -> None:
        self._wrapped, self._trainer, self._inputs = wrapped, trainer, inputs
        self._device = trainer.computation.parameters[0].device
        weights = wrapped.get_base_model().base_weights
        self._spec = replace(inputs.spec, precision=precision, base_weights=weights)  # what was automatic
        self._batches = trainer.batches(0)
        self._shape = _shape(wrapped, trainer, inputs)
        self._longest = inputs.largest_row  # as `Passes` counts

    def measured(self) -> Passing:
        """From what a short and a long row keep: the tensors that torch saves for the backward pass."""
        items = sorted(self._inputs.train.examples, key=token_count)
        passes = self._trainer.passes
        before = passes.recomputing
        (few, less), (many, more) = self._saved([items[0]]), self._saved([items[-1]])
        if passes.recomputing != before:  # one row alone did not fit; they keep less now, and more may fit
            passes.limit = self._spec.micro_batch_size
            (few, less), (many, more) = self._saved([items[0]]), self._saved([items[-1]])
        kept = (more - less) / (many - few) if many > few else more / many
        return memory.measured(
            self._shape,
            self._spec,
            self._counted(),
            self._device.type,
            fixed=max(0.0, more - kept * many),
            kept=kept,
            recomputed=passes.recomputing,
        )

    def reckoned(self) -> Passing:
        return memory.reckon(self._shape, self._spec, self._counted(), self._device.type)

    def choose_rows(self, passing: Passing) -> None:
        """On a CPU no more than pays, and everywhere no more than fits; a GPU is also asked by trying."""
        batch_size, kind = self._spec.batch_size, self._device.type
        rows = estimate.default_rows(self._longest, batch_size, kind)
        free = USABLE[kind] * (self._free() - self.state_bytes())
        while rows > 1 and passing.peak(rows * self._longest) > free:
            rows = (rows + 1) // 2
        if rows < batch_size:
            self._trainer.passes.limit = rows
        if kind == "cuda":  # `Passes` halves what does not fit after all
            self._run(max(self._batches, key=_tokens))

    def timed(self, speed: Speed) -> Speed:
        """`speed`, corrected by how long the middle one of the batches takes."""
        batch = sorted(self._batches, key=_tokens)[len(self._batches) // 2]
        self._run(batch)  # kernels are compiled and caches filled
        seconds = median(self._run(batch) for _ in range(TIMED_PASSES))
        foretold = speed.seconds(self._work([batch])) / self._trainer.ranks.size
        return speed.scaled(seconds / foretold, "the first passes, tried")

    def work(self) -> Work:
        """Of all steps and evaluations of the job."""
        steps = self._trainer.steps
        epochs = steps / len(self._batches)
        total = Work().plus(self._work(self._batches), epochs)
        looks = estimate.evaluations(self._spec, steps)
        if self._spec.method == "dpo" and not estimate.asked_ahead(self._spec):
            total = total.plus(self._work(self._batches, trained=False), min(1.0, epochs))
            looks += 1
        valid = sorted(self._inputs.valid.examples, key=longest)
        return total.plus(self._work([valid], trained=False), looks)

    def largest_pass(self) -> int:
        """Tokens of it, padding included."""
        return max(sum(piece) for batch in self._batches for piece, _ in self._cut(batch))

    def _counted(self) -> float:
        """The share of the tokens whose prediction counts, of all batches together."""
        passes = [found for batch in self._batches for found in self._cut(batch)]
        return sum(counted for _, counted in passes) / sum(sum(rows) for rows, _ in passes)

    def state_bytes(self) -> int:
        """Gradients and the optimizer's state."""
        numbers: int = sum(parameter.numel() for parameter in self._trainer.computation.parameters)
        return numbers * (4 + memory.OPTIMIZER_BYTES[self._spec.optimizer])

    def _work(self, batches: Sequence[Sequence[Item]], *, trained: bool = True) -> Work:
        total = Work()
        for batch in batches:
            for rows, counted in self._cut(batch):
                recomputed = self._trainer.passes.recomputing
                total = total.plus(
                    estimate.pass_work(self._shape, rows, counted, trained=trained, recomputed=recomputed)
                )
        return total

    def _cut(self, batch: Sequence[Item]) -> list[tuple[list[int], int]]:
        """The rows of each pass of a batch with their padding, and how many of their tokens count."""
        found = []
        for piece in self._trainer.passes.cut(batch):
            counted = sum(len(sequence.targets) for item in piece for sequence in item.sequences)
            found.append((padded(list(map(lengths, piece)), packed=self._spec.packing), counted))
        return found

    def _run(self, batch: list[Item]) -> float:
        """Seconds of its forward and backward passes."""
        self._synchronise()
        start = time.perf_counter()
        self._trainer.computation.gradients(batch)
        self._synchronise()
        seconds = time.perf_counter() - start
        for parameter in self._trainer.computation.parameters:
            parameter.grad = None
        return seconds

    def _saved(self, items: list[Item]) -> tuple[int, int]:
        """(tokens with padding, bytes that torch saves of their pass), model weights left out.

        Every rank tries the same: of one item alone most would have nothing to do.
        """
        known = {p.untyped_storage().data_ptr() for p in self._wrapped.parameters()}
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._run([item for item in items for _ in range(self._trainer.ranks.size)])
        return sum(sum(rows) for rows, _ in self._cut(items)), sum(sizes.values())

    def _free(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(self._device)
            return free
        return int(psutil.virtual_memory().available) // self._trainer.ranks.size

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _start_seconds(spec: JobSpec, speed: Speed, started_s: float) -> float:
    """Of `started_s`, what was not the reading of the base; as before where pairs were asked then, too."""
    if estimate.asked_ahead(spec) or not Path(spec.base).is_file():
        return speed.start_s
    return max(0.0, started_s - estimate.loading_seconds(read_header(Path(spec.base)), speed))


def _tokens(batch: Sequence[Item]) -> int:
    return sum(map(token_count, batch))


def _shape(wrapped: Any, trainer: Trainer, inputs: Inputs) -> Shape:
    """From the header where the base is a GGUF, else from its configuration."""
    path = Path(inputs.spec.base)
    if path.is_file():
        return shape_of(read_header(path), inputs.spec)
    config = wrapped.config
    hidden = int(config.hidden_size)
    ffn = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    key_value = size * int(getattr(config, "num_key_value_heads", None) or heads)
    layers = int(config.num_hidden_layers)
    return Shape(
        hidden=hidden,
        ffn=ffn,
        key_value=key_value,
        attention=size * heads,
        layers=layers,
        vocabulary=int(config.vocab_size),
        linear=layers * (hidden * (2 * size * heads + 2 * key_value) + 3 * hidden * ffn),
        lora=sum(parameter.numel() for parameter in trainer.computation.parameters),
    )
