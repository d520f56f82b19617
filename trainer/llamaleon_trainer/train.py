"""The training loop: optimizer steps, held-out evaluations and checkpoints, each in its place.

Our own rather than transformers' Trainer: per-token weights must be normalised over a whole optimizer step,
a resumed job must repeat the unbroken one exactly, and a nano-size job should not wait for heavy imports.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from .batches import epoch_batches
from .checkpoint import Checkpoints, Progress
from .device import memory_bytes
from .errors import Diverged
from .events import EventWriter
from .inputs import Inputs
from .items import Item, longest, token_count
from .job import JobSpec
from .objectives import Objective
from .optimizers import make_optimizer
from .order import steps_in_epoch
from .parallel import ALONE, Ranks
from .passes import Passes
from .schedules import rate_share
from .steps import Computation

EVALUATIONS = 10  # over a job, unless the spec says otherwise
SPEED_WINDOW_STEPS = 20

Stop = Literal["cancelled", "paused"]
Stopped = Callable[[], Stop | None]


def steps_in_job(spec: JobSpec, rows: int) -> int:
    steps = steps_in_epoch(rows, spec.batch_size) * spec.epochs
    return min(steps, spec.max_steps or steps)


class Trainer:
    """One job's training state. `wrapped` is the PeftModel that `objective` runs."""

    def __init__(
        self,
        wrapped: Any,
        objective: Objective,
        passes: Passes,
        inputs: Inputs,
        *,
        checkpoints: Checkpoints,
        events: EventWriter,
        ranks: Ranks = ALONE,
    ) -> None:
        self.spec = inputs.spec
        self.passes = passes
        self.ranks = ranks
        self.computation = Computation(wrapped, objective, passes, ranks)
        self.optimizer = make_optimizer(self.computation.parameters, self.spec)
        self.progress = Progress()
        self._wrapped = wrapped
        self._objective = objective
        self._train = inputs.train.examples
        self._valid = sorted(inputs.valid.examples, key=longest)
        self._checkpoints = checkpoints
        self._events = events
        self._device = self.computation.parameters[0].device
        self.steps_per_epoch = steps_in_epoch(len(self._train), self.spec.batch_size)
        self.steps = steps_in_job(self.spec, len(self._train))
        self._eval_every = self.spec.eval_every_steps or max(1, self.steps // EVALUATIONS)
        self._save_every = self.spec.save_every_steps or self.steps_per_epoch
        self._speeds: deque[tuple[int, float]] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._evaluated_step = -1
        self._saved_step = 0  # the same in every rank, unlike what each sees on the disk at a moment

    def resume(self) -> None:
        """Go on from the newest checkpoint; let the objective ask what it must before a weight changes.

        Raises: BadJob when that checkpoint belongs to another spec.
        """
        self.progress, state = self._checkpoints.restore_newest(self._wrapped, self.optimizer)
        if self.progress.step:  # once more: a trainer that was killed right after saving did not say so
            self._tell_checkpoint()
        self._saved_step = self.progress.step
        self._objective.restore(state)
        self.passes.limit = self.progress.micro_batch_size or self.passes.limit
        self.computation.before_training([*self._train, *self._valid])

    def run(self, stopped: Stopped) -> Stop | None:
        """Train to the end, or to a checkpoint where `stopped` says so, and then what it says.

        Raises:
            Diverged: a loss or gradient that is not a number.
            OutOfMemory: not even one row fits.
        """
        for batch in self._remaining_batches():
            stop = stopped()
            if self.ranks.agree(stop is not None):
                self._checkpoint()
                return stop or "cancelled"
            if self.progress.step == 0:
                self._evaluate()
            if self._patience_ended():
                self._stop_early()
                break
            self._step(batch)
            self._after_step()
        return None

    def batches(self, epoch: int) -> list[list[Item]]:
        """Of each step of an epoch, counted from 0, the rows of all processes."""
        spec = self.spec
        return epoch_batches(self._train, spec.batch_size, spec.seed, epoch, by_length=spec.group_by_length)

    def _remaining_batches(self) -> Iterator[list[Item]]:
        done = self.progress.step
        for epoch in range(done // self.steps_per_epoch, self.spec.epochs):
            first = epoch * self.steps_per_epoch
            if first < self.steps:
                yield from self.batches(epoch)[max(0, done - first) : self.steps - first]

    def _step(self, batch: list[Item]) -> None:
        started = time.perf_counter()
        progress = self.progress
        progress.step += 1
        self._seed(progress.step)
        learning_rate = self._learning_rate(progress.step)
        metrics, norm = self.optimize(batch, learning_rate)
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            raise self._diverged("loss")
        tokens, seconds = sum(map(token_count, batch)), time.perf_counter() - started
        self._speeds.append((tokens, seconds))
        progress.trained_tokens += tokens
        progress.metrics |= {"train_loss": metrics["loss"], "train_accuracy": metrics["accuracy"]}
        self._report_step(metrics, learning_rate, norm)

    def optimize(self, batch: list[Item], learning_rate: float) -> tuple[dict[str, float], float]:
        """One optimizer step, and nothing else: the objective's metrics and the gradient's norm before it.

        A step whose gradient is not a number is not taken.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        metrics = self.computation.gradients(batch)
        parameters = self.computation.parameters
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.spec.max_grad_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        return metrics, norm

    def _seed(self, step: int) -> None:
        """A step has its own random numbers (dropout, noise), whatever happened before it."""
        drawn = random.Random(f"{self.spec.seed} {step} {self.ranks.rank}")
        torch.manual_seed(drawn.getrandbits(63))

    def _after_step(self) -> None:
        step = self.progress.step
        saving = step == self.steps or step % self._save_every == 0
        better = False
        if saving or step % self._eval_every == 0:
            better = self._evaluate()
        if saving or (better and self.spec.load_best):
            self._checkpoint()

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"the {what} is not a number at step {self.progress.step}: lower `learning_rate` "
            f"(now {self.spec.learning_rate:g}) or raise `warmup_fraction`"
        )

    def _learning_rate(self, step: int) -> float:
        highest = self.progress.learning_rate or self.spec.learning_rate
        return highest * rate_share(self.spec.lr_scheduler, self.spec.warmup_fraction, step, self.steps)

    def _report_step(self, metrics: dict[str, float], learning_rate: float, norm: float) -> None:
        tokens, seconds = (sum(values) for values in zip(*self._speeds, strict=True))
        progress = self.progress
        self._events.write(
            "step",
            step=progress.step,
            epoch=(progress.step - 1) // self.steps_per_epoch + 1,
            **_named("train", metrics),
            learning_rate=learning_rate,
            grad_norm=norm,
            tokens_per_s=tokens / seconds,
            memory_bytes=memory_bytes(self._device),
            eta_s=(self.steps - progress.step) * seconds / len(self._speeds),
            trained_tokens=progress.trained_tokens,
        )

    def _evaluate(self) -> bool:
        """Report how the held-out rows do, once for each step; whether their loss is the lowest yet."""
        progress = self.progress
        if not self._valid or self._evaluated_step == progress.step:
            return False
        found = self.computation.held_out(self._valid)
        if not math.isfinite(found["loss"]):
            raise self._diverged("held-out loss")
        self._evaluated_step = progress.step
        metrics = _named("valid", found)
        progress.metrics |= {name: metrics[name] for name in ("valid_loss", "valid_accuracy")}
        self._events.write("eval", step=progress.step, **metrics)
        lowest = progress.lowest_valid_loss
        better = lowest is None or found["loss"] < lowest
        progress.lowest_valid_loss = found["loss"] if better else lowest
        progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
        return better

    def _patience_ended(self) -> bool:
        patience = self.spec.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    def _stop_early(self) -> None:
        progress = self.progress
        if self._saved_step != progress.step:
            self._checkpoint()
        self._events.write(
            "warning",
            message=f"stopped early at step {progress.step} of {self.steps}: the held-out loss was not lower "
            f"in the last {progress.evaluations_without_gain} evaluations",
        )

    def _checkpoint(self) -> None:
        progress = self.progress
        if progress.step == 0:
            return
        self._saved_step = progress.step
        progress.micro_batch_size = self.passes.limit
        valid_loss = progress.metrics.get("valid_loss")
        best = progress.best_valid_loss
        # The newest held-out loss may be an older step's.
        current = self._evaluated_step == progress.step
        if current and valid_loss is not None and (best is None or valid_loss < best):
            progress.best_step, progress.best_valid_loss = progress.step, valid_loss
        if self.ranks.is_main:
            self._checkpoints.save(self._wrapped, self.optimizer, self._objective.state(), progress)
            self._tell_checkpoint()
        self.ranks.barrier()

    def _tell_checkpoint(self) -> None:
        step = self.progress.step
        path = str(self._checkpoints.path(step))
        self._events.write("checkpoint", step=step, path=path, **self.progress.metrics)


def _named(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """Objectives' own names for their metrics as the events have them."""
    return {
        f"{prefix}_{name}" if name in ("loss", "accuracy") else name: value for name, value in metrics.items()
    }


def overfitting_warning(progress: Progress) -> str | None:
    """What to tell when the held-out loss was lower at an earlier checkpoint than at the end."""
    final, best = progress.metrics.get("valid_loss"), progress.best_valid_loss
    if final is None or best is None or final <= best * 1.02:
        return None
    return (
        f"the held-out loss rose from {best:.4f} at step {progress.best_step} to {final:.4f}: "
        "fewer epochs, a lower learning rate or more rows would generalise better"
    )
