"""The training loop: optimizer steps, held-out evaluations and checkpoints, each in its place.

Our own rather than transformers' Trainer: per-token weights must be normalised over a whole optimizer step,
a resumed job must repeat the unbroken one exactly, and a nano-size job should not wait for heavy imports.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from .batches import collate, epoch_batches, pieces, steps_in_epoch
from .checkpoint import Checkpoints, Progress
from .device import is_out_of_memory, memory_bytes
from .errors import Diverged, OutOfMemory
from .events import EventWriter
from .inputs import Example, Inputs
from .scoring import Scorer

EVALUATIONS = 10  # over a job, unless the spec says otherwise
SPEED_WINDOW_STEPS = 20

T = TypeVar("T")


class Trainer:
    """One job's training state. `wrapped` is the PeftModel whose LoRA layers `scorer` runs through."""

    def __init__(
        self,
        wrapped: Any,
        scorer: Scorer,
        inputs: Inputs,
        checkpoints: Checkpoints,
        events: EventWriter,
    ) -> None:
        self.spec = inputs.spec
        self._wrapped = wrapped
        self._scorer = scorer
        self._train = inputs.train.examples
        self._valid = sorted(inputs.valid.examples, key=lambda example: len(example.tokens))
        self._device = scorer.device
        self._checkpoints = checkpoints
        self._events = events
        self._parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=self.spec.learning_rate, weight_decay=self.spec.weight_decay, fused=True
        )
        self.steps_per_epoch = steps_in_epoch(len(self._train), self.spec.batch_size)
        self.steps = self.steps_per_epoch * self.spec.epochs
        self._eval_every = self.spec.eval_every_steps or max(1, self.steps // EVALUATIONS)
        self._save_every = self.spec.save_every_steps or self.steps_per_epoch
        self._speeds: deque[tuple[int, float]] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._evaluated_step = -1
        self._recomputing = False  # activations, in the backward pass
        self.progress = Progress()

    def resume(self) -> None:
        """Raises: BadJob when the newest checkpoint belongs to another spec."""
        self.progress = self._checkpoints.restore_newest(self._wrapped, self._optimizer)

    def run(self, stopped: Callable[[], bool]) -> bool:
        """Train to the end, or to a checkpoint where `stopped` says so. True when finished.

        Raises:
            Diverged: a loss or gradient that is not a number.
            OutOfMemory: not even one row fits.
        """
        if self.progress.step == 0 and not stopped():
            self._evaluate()
        for batch in self._remaining_batches():
            if stopped():
                self._checkpoint()
                return False
            self._step(batch)
            step = self.progress.step
            last = step == self.steps
            saving = last or step % self._save_every == 0
            if saving or step % self._eval_every == 0:
                self._evaluate()
            if saving:
                self._checkpoint()
        return True

    def _remaining_batches(self) -> Iterator[list[Example]]:
        done = self.progress.step
        for epoch in range(done // self.steps_per_epoch, self.spec.epochs):
            batches = epoch_batches(self._train, self.spec.batch_size, self.spec.seed, epoch)
            yield from batches[max(0, done - epoch * self.steps_per_epoch) :]

    def _step(self, batch: list[Example]) -> None:
        started = time.perf_counter()
        progress = self.progress
        progress.step += 1
        learning_rate = self._learning_rate(progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss, accuracy = self._fitting(len(batch), lambda: self._accumulate(batch))
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.spec.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged("loss")
        self._optimizer.step()
        tokens, seconds = sum(len(example.tokens) for example in batch), time.perf_counter() - started
        self._speeds.append((tokens, seconds))
        progress.trained_tokens += tokens
        progress.seconds += seconds
        progress.metrics |= {"train_loss": loss, "train_accuracy": accuracy}
        self._report_step(learning_rate, norm)

    def _diverged(self, what: str) -> Diverged:
        return Diverged(
            f"the {what} is not a number at step {self.progress.step}: lower `learning_rate` "
            f"(now {self.spec.learning_rate:g}) or raise `warmup_fraction`"
        )

    def _fitting(self, rows: int, attempt: Callable[[], T]) -> T:
        """What `attempt` returns once it fits into memory. Raises: OutOfMemory when it never does."""
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the exception's frames held the tensors of the failed pass.
            self._use_less_memory(rows)

    def _accumulate(self, batch: list[Example]) -> tuple[float, float]:
        """Gradients of the mean loss over the whole step's weight, gathered from micro-batches.

        Returns (loss per unit of weight in nats, share of counted tokens predicted greedily).
        """
        self._wrapped.train()
        self._optimizer.zero_grad(set_to_none=True)
        step_weight = sum(sum(example.weights) for example in batch)
        loss, correct, counted = 0.0, 0, 0
        for piece in pieces(batch, self._micro_batch_size()):
            score = self._scorer.score(collate(piece, self._device))
            (score.loss / step_weight).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            loss += float(score.loss.detach())
            correct += score.correct
            counted += score.tokens
        return loss / step_weight, correct / counted

    def _micro_batch_size(self) -> int:
        wanted = self.progress.micro_batch_size or self.spec.micro_batch_size or self.spec.batch_size
        return min(wanted, self.spec.batch_size)

    def _use_less_memory(self, rows: int) -> None:
        """Halve the micro-batch; at one row recompute activations instead of keeping them.

        Raises:
            OutOfMemory: both are done already.
        """
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        size = min(self._micro_batch_size(), rows)
        if size > 1:
            self.progress.micro_batch_size = size // 2
            message = f"out of memory with {size} rows a pass: going on with {size // 2}"
        elif not self._recomputing:
            self.progress.micro_batch_size = 1
            self._recomputing = True
            self._scorer.model.activation_checkpointing_enable()
            message = (
                "out of memory with one row a pass: recomputing activations from now on, which is slower"
            )
        else:
            raise OutOfMemory(
                "not even one row fits into memory: lower `max_sequence_tokens` or `lora.r`, "
                "use precision bfloat16, or a smaller base"
            )
        self._events.write("warning", message=message)

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to 0 just after the last step. Steps count from 1."""
        warmup = math.ceil(self.spec.warmup_fraction * self.steps)
        if step <= warmup:
            return self.spec.learning_rate * step / warmup
        share = (step - 1 - warmup) / max(1, self.steps - warmup)
        return self.spec.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

    def _report_step(self, learning_rate: float, norm: float) -> None:
        tokens, seconds = (sum(values) for values in zip(*self._speeds, strict=True))
        progress = self.progress
        self._events.write(
            "step",
            step=progress.step,
            epoch=(progress.step - 1) // self.steps_per_epoch + 1,
            train_loss=progress.metrics["train_loss"],
            train_accuracy=progress.metrics["train_accuracy"],
            learning_rate=learning_rate,
            grad_norm=norm,
            tokens_per_s=tokens / seconds,
            memory_bytes=memory_bytes(self._device),
            eta_s=(self.steps - progress.step) * seconds / len(self._speeds),
            trained_tokens=progress.trained_tokens,
        )

    def _evaluate(self) -> None:
        """Report loss and accuracy on the held-out rows, once for each step."""
        if not self._valid or self._evaluated_step == self.progress.step:
            return
        loss, accuracy = self._fitting(len(self._valid), self._held_out)
        if not math.isfinite(loss):
            raise self._diverged("held-out loss")
        self._evaluated_step = self.progress.step
        metrics = {"valid_loss": loss, "valid_accuracy": accuracy}
        self.progress.metrics |= metrics
        self._events.write("eval", step=self.progress.step, **metrics)

    @torch.no_grad()
    def _held_out(self) -> tuple[float, float]:
        """Loss per unit of weight in nats, and the share of counted tokens predicted greedily."""
        self._wrapped.eval()
        loss, weight, correct, counted = 0.0, 0.0, 0, 0
        for piece in pieces(self._valid, self._micro_batch_size()):
            score = self._scorer.score(collate(piece, self._device))
            loss += float(score.loss)
            weight += score.weight
            correct += score.correct
            counted += score.tokens
        return loss / weight, correct / counted

    def _checkpoint(self) -> None:
        progress = self.progress
        if progress.step == 0:
            return
        valid_loss = progress.metrics.get("valid_loss")
        best = progress.best_valid_loss
        if valid_loss is not None and (best is None or valid_loss < best):
            progress.best_step, progress.best_valid_loss = progress.step, valid_loss
        path = self._checkpoints.save(self._wrapped, self._optimizer, progress)
        self._events.write("checkpoint", step=progress.step, path=str(path), **progress.metrics)


def overfitting_warning(progress: Progress) -> str | None:
    """What to tell when the held-out loss was lower at an earlier checkpoint than at the end."""
    final, best = progress.metrics.get("valid_loss"), progress.best_valid_loss
    if final is None or best is None or final <= best * 1.02:
        return None
    return (
        f"the held-out loss rose from {best:.4f} at step {progress.best_step} to {final:.4f}: "
        "fewer epochs, a lower learning rate or more rows would generalise better"
    )
